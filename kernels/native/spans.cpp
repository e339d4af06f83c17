// Lines, spans and extents; what they are is in spans.hpp.
#include "spans.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "parallel.hpp"

namespace mien {
namespace {

constexpr double kReach = 1.01;  // a bilinear tap, and what positions are rounded by

MIEN_CLONES bool is_any_beyond(const float* numbers, int count, float least) {
    int any = 0;
    for (int i = 0; i < count; ++i) any |= (numbers[i] > least) | (numbers[i] < -least);
    return any != 0;
}

// Of `count` numbers, a whole number of kLanes. The largest magnitude goes by its bits: those of infinity and NaN are above
// every finite number's. Lanes of their own make vector code of it.
constexpr size_t kLanes = 32;

MIEN_CLONES Extent extent_of(const float* numbers, size_t count, uint32_t& most) {
    float low[kLanes], high[kLanes];
    uint32_t bits[kLanes] = {};
    std::copy_n(numbers, kLanes, low);
    std::copy_n(numbers, kLanes, high);
    for (size_t start = 0; start < count; start += kLanes) {
        uint32_t words[kLanes];
        std::memcpy(words, numbers + start, sizeof words);
        for (size_t k = 0; k < kLanes; ++k) {
            const float number = numbers[start + k];
            const uint32_t word = words[k] & 0x7fffffffu;
            low[k] = number < low[k] ? number : low[k];
            high[k] = number > high[k] ? number : high[k];
            bits[k] = bits[k] > word ? bits[k] : word;
        }
    }
    most = *std::max_element(bits, bits + kLanes);
    return {*std::min_element(low, low + kLanes), *std::max_element(high, high + kLanes)};
}

}  // namespace

// Narrows the range to the i whose position origin + i step lies in [low, high].
Range narrow(Range range, double origin, double step, double low, double high) {
    auto [begin, end] = range;
    const auto is_in = [=](int i) { return origin + i * step >= low && origin + i * step <= high; };
    if (step != 0) {
        const double one = (low - origin) / step, other = (high - origin) / step;
        const double first = std::floor(std::min(one, other)), last = std::ceil(std::max(one, other));
        begin = static_cast<int>(std::min(std::max(first, static_cast<double>(begin)), static_cast<double>(end)));
        end = static_cast<int>(std::max(std::min(last + 1, static_cast<double>(end)), static_cast<double>(begin)));
    }
    while (begin < end && !is_in(begin)) ++begin;
    while (begin < end && !is_in(end - 1)) --end;
    return {begin, end};
}

Range Spans::narrow_to(Range range, const Line& line) const {
    if (is_empty()) return {range.begin, range.begin};
    range = narrow(range, line.y, line.dy, top_ - kReach, bottom_ + kReach);
    if (range.is_empty()) return range;
    const double one = line.y + range.begin * line.dy, other = line.y + (range.end - 1) * line.dy;
    const int from = std::max(static_cast<int>(std::ceil(std::min(one, other) - kReach)), top_);
    const int to = std::min(static_cast<int>(std::floor(std::max(one, other) + kReach)), bottom_);
    int low = static_cast<int>(first_.size()), high = -1;
    for (int row = from; row <= to; ++row) low = std::min(low, first_[row]), high = std::max(high, last_[row]);
    return narrow(range, line.x, line.dx, low - kReach, high + kReach);
}

Spans spans_of(const float* picture, int width, int channels, float least) {
    const int count = width * channels;
    Spans spans(width);
    for (int row = 0; row < width; ++row) {
        const float* at = picture + static_cast<size_t>(row) * count;
        if (!is_any_beyond(at, count, least)) continue;
        int first = 0, last = count - 1;
        while (!(std::abs(at[first]) > least)) ++first;
        while (!(std::abs(at[last]) > least)) --last;
        spans.add(row, first / channels, last / channels);
    }
    return spans;
}

Extent extent(const float* numbers, size_t count) {
    Extent found{0.0f, 0.0f};
    if (count == 0) return found;
    uint32_t most = 0, most_of_rest = 0;
    float rest[kLanes];  // what is over, filled up with its last number
    const size_t whole = count - count % kLanes;
    std::fill(rest, rest + kLanes, numbers[count - 1]);
    std::copy(numbers + whole, numbers + count, rest);
    found = extent_of(rest, kLanes, most_of_rest);
    if (whole) {
        const Extent bulk = extent_of(numbers, whole, most);
        found = {std::min(found.low, bulk.low), std::max(found.high, bulk.high)};
    }
    constexpr float kNone = std::numeric_limits<float>::quiet_NaN();
    return std::max(most, most_of_rest) < 0x7f800000u ? found : Extent{kNone, kNone};
}

}  // namespace mien
