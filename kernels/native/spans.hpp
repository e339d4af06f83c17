// Which samples of a row of a plane are to be visited: lines through the crop, and where a picture over it does something.
#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

namespace mien {

// Positions along a row of a plane: sample i at (x + i dx, y + i dy).
struct Line {
    double x, dx, y, dy;

    Line scaled(double ratio) const { return {(x + 0.5) * ratio - 0.5, dx * ratio, (y + 0.5) * ratio - 0.5, dy * ratio}; }
};

// Samples [begin, end) of a row.
struct Range {
    int begin, end;

    bool is_empty() const { return begin >= end; }
    bool meets(int first, int n) const { return begin < first + n && first < end; }
    Range with(const Range& other) const {
        if (is_empty() || other.is_empty()) return is_empty() ? other : *this;
        return {std::min(begin, other.begin), std::max(end, other.end)};
    }
};

// Narrows the range to the i whose position origin + i step lies in [low, high].
Range narrow(Range range, double origin, double step, double low, double high);

// Where a square picture (a mask, a warp) does something: the first and the last such column of each row.
class Spans {
public:
    explicit Spans(int rows) : first_(rows, rows), last_(rows, -1) {}

    void add(int row, int first, int last) {
        first_[row] = first, last_[row] = last;
        top_ = std::min(top_, row), bottom_ = std::max(bottom_, row);
    }
    bool is_empty() const { return bottom_ < top_; }
    int top() const { return top_; }
    int bottom() const { return bottom_; }

    // Narrows the range to samples whose taps may be among the spans, going by the hull of the rows it crosses.
    Range narrow_to(Range range, const Line& line) const;

private:
    std::vector<int> first_, last_;
    int top_ = 1 << 30, bottom_ = -1;
};

// Where any channel of a picture (width, width, channels) is more than `least` from zero.
Spans spans_of(const float* picture, int width, int channels, float least);

// The lowest and the highest of some numbers; both NaN unless all are finite.
struct Extent {
    float low, high;
};
Extent extent(const float* numbers, size_t count);

}  // namespace mien
