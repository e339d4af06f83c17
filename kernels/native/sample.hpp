// Planes and the two ways to sample them; the definitions are in kernels/sampling.py.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "parallel.hpp"

namespace mien {

// A picture whose rows lie `pitch` samples apart.
template <typename T>
struct Plane {
    T* data;
    int width, height;
    ptrdiff_t pitch;
};

// x' = a x + b y + c, y' = d x + e y + f.
struct Affine {
    double a, b, c, d, e, f;

    Affine inverse() const {
        const double det = a * e - b * d;
        const double ia = e / det, ib = -b / det, id = -d / det, ie = a / det;
        return {ia, ib, -(ia * c + ib * f), id, ie, -(id * c + ie * f)};
    }
};

// How many samples are treated together: their positions live in the first-level cache.
constexpr int kChunk = 128;

// Positions of a run of samples within a plane: the top-left tap and the two fractions.
struct Taps {
    int32_t ix[kChunk], iy[kChunk];
    float fx[kChunk], fy[kChunk];
};

// Fills taps with the positions (base_x + x(i), base_y + y(i)), i in [0, n), clamped to the plane; what is not a number becomes 0.
// Positions are float32 relative to a whole number, which costs 1e-5 of a pixel and halves the time of float64.
template <typename X, typename Y>
MIEN_INLINE void locate(Taps& taps, int n, int width, int height, int base_x, int base_y, const X& x_at, const Y& y_at) {
    const float left = static_cast<float>(-base_x), right = static_cast<float>(width - 1 - base_x);
    const float top = static_cast<float>(-base_y), bottom = static_cast<float>(height - 1 - base_y);
    const int last_x = std::max(width - 2, 0) - base_x, last_y = std::max(height - 2, 0) - base_y;
    for (int i = 0; i < n; ++i) {
        float x = x_at(i), y = y_at(i);
        x = x > left ? x : left;
        x = x < right ? x : right;
        y = y > top ? y : top;
        y = y < bottom ? y : bottom;
        int ix = static_cast<int>(x), iy = static_cast<int>(y);
        ix -= x < static_cast<float>(ix);  // floor
        iy -= y < static_cast<float>(iy);
        ix = ix < last_x ? ix : last_x;
        iy = iy < last_y ? iy : last_y;
        taps.ix[i] = base_x + ix;
        taps.iy[i] = base_y + iy;
        taps.fx[i] = x - static_cast<float>(ix);
        taps.fy[i] = y - static_cast<float>(iy);
    }
}

// The same along a line: positions (x0 + i dx, y0 + i dy).
MIEN_INLINE void locate_line(Taps& taps, int n, int width, int height, double x0, double dx, double y0, double dy) {
    constexpr double kFar = 1 << 22;  // beyond any plane, and exact in float32
    const int base_x = static_cast<int>(std::min(std::max(x0, -kFar), kFar));
    const int base_y = static_cast<int>(std::min(std::max(y0, -kFar), kFar));
    const float x = static_cast<float>(x0 - base_x), y = static_cast<float>(y0 - base_y);
    const float step_x = static_cast<float>(dx), step_y = static_cast<float>(dy);
    locate(
        taps, n, width, height, base_x, base_y, [=](int i) { return x + static_cast<float>(i) * step_x; },
        [=](int i) { return y + static_cast<float>(i) * step_y; });
}

// Where the top-left taps lie in a plane of that pitch; a loop of its own because it is vector code and what follows is not.
MIEN_INLINE void offsets_of(int32_t* offsets, const Taps& taps, int32_t pitch, int n) {
    for (int i = 0; i < n; ++i) offsets[i] = taps.iy[i] * pitch + taps.ix[i];
}

// Two neighbouring samples in one word, the left one in the low half: loads stay scalar, arithmetic becomes vector code.
template <typename T>
MIEN_INLINE uint32_t pair(const T* at) {
    return static_cast<uint32_t>(at[0]) | static_cast<uint32_t>(at[1]) << (8 * sizeof(T));
}
template <typename T>
MIEN_INLINE float left(uint32_t word) {
    return static_cast<float>(static_cast<int32_t>(word & ((1u << (8 * sizeof(T))) - 1)));
}
template <typename T>
MIEN_INLINE float right(uint32_t word) {
    return static_cast<float>(static_cast<int32_t>(word >> (8 * sizeof(T))));
}

MIEN_INLINE float blend(float a, float b, float c, float d, float fx, float fy) {
    const float above = a + fx * (b - a), under = c + fx * (d - c);
    return above + fy * (under - above);
}

// Writes the bilinear samples of an integer plane at the taps; adds them to result where `is_sum`.
template <bool is_sum, typename T>
MIEN_INLINE void sample_bilinear(float* result, const Plane<const T>& plane, const Taps& taps, int n) {
    const ptrdiff_t below = plane.height > 1 ? plane.pitch : 0;
    uint32_t above[kChunk], under[kChunk];
    if (plane.width > 1) {
        int32_t offsets[kChunk];
        offsets_of(offsets, taps, static_cast<int32_t>(plane.pitch), n);
        for (int i = 0; i < n; ++i) {
            const T* at = plane.data + offsets[i];
            above[i] = pair(at);
            under[i] = pair(at + below);
        }
    } else {  // fx is 0: the right neighbour does not count
        for (int i = 0; i < n; ++i) {
            const T* at = plane.data + taps.iy[i] * plane.pitch;
            above[i] = at[0];
            under[i] = at[below];
        }
    }
    for (int i = 0; i < n; ++i) {
        const float value = blend(left<T>(above[i]), right<T>(above[i]), left<T>(under[i]), right<T>(under[i]), taps.fx[i], taps.fy[i]);
        result[i] = is_sum ? result[i] + value : value;
    }
}

// Catmull-Rom weights of the taps -1, 0, 1, 2.
MIEN_INLINE void catmull_rom_weights(float t, float* weights) {
    const float t2 = t * t, t3 = t2 * t;
    weights[0] = t2 - 0.5f * (t + t3);
    weights[1] = 1.0f - 2.5f * t2 + 1.5f * t3;
    weights[2] = 0.5f * t + 2.0f * t2 - 1.5f * t3;
    weights[3] = 0.5f * (t3 - t2);
}

// Four neighbouring samples in one word, the leftmost one in the low bits.
template <typename T>
using Quad = std::conditional_t<sizeof(T) == 1, uint32_t, uint64_t>;
template <typename T>
MIEN_INLINE Quad<T> quad(const T* at) {
    Quad<T> word = 0;
    for (int k = 0; k < 4; ++k) word |= static_cast<Quad<T>>(at[k]) << (8 * sizeof(T) * k);
    return word;
}
template <typename T>
MIEN_INLINE float of_quad(Quad<T> word, int k) {
    constexpr int kBits = 8 * sizeof(T);
    return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(word >> (kBits * k)) & ((1u << kBits) - 1)));
}

// Writes the Catmull-Rom samples of an integer plane at the taps.
template <typename T>
MIEN_INLINE void sample_catmull_rom(float* result, const Plane<const T>& plane, const Taps& taps, int n) {
    Quad<T> rows[4][kChunk];  // taps -1 .. 2 of four rows
    int32_t is_near_edge = 0;
    for (int i = 0; i < n; ++i) {
        const int ix = taps.ix[i], iy = taps.iy[i];
        is_near_edge |= (ix < 1) | (iy < 1) | (ix + 2 >= plane.width) | (iy + 2 >= plane.height);
    }
    if (!is_near_edge) {
        int32_t offsets[kChunk];
        offsets_of(offsets, taps, static_cast<int32_t>(plane.pitch), n);
        const T* const start = plane.data - plane.pitch - 1;
        for (int i = 0; i < n; ++i) {
            const T* row = start + offsets[i];
            for (int j = 0; j < 4; ++j, row += plane.pitch) rows[j][i] = quad(row);
        }
    } else {
        for (int i = 0; i < n; ++i) {
            for (int j = 0; j < 4; ++j) {
                const T* row = plane.data + std::clamp(taps.iy[i] + j - 1, 0, plane.height - 1) * plane.pitch;
                T tap[4];
                for (int k = 0; k < 4; ++k) tap[k] = row[std::clamp(taps.ix[i] + k - 1, 0, plane.width - 1)];
                rows[j][i] = quad(tap);
            }
        }
    }
    for (int i = 0; i < n; ++i) {
        float wx[4], wy[4], total = 0.0f;
        catmull_rom_weights(taps.fx[i], wx);
        catmull_rom_weights(taps.fy[i], wy);
        for (int j = 0; j < 4; ++j) {
            const Quad<T> word = rows[j][i];
            total += wy[j] * (wx[0] * of_quad<T>(word, 0) + wx[1] * of_quad<T>(word, 1) + wx[2] * of_quad<T>(word, 2) +
                              wx[3] * of_quad<T>(word, 3));
        }
        result[i] = total;
    }
}

}  // namespace mien
