// composite_delta_yuv and composite_replace_yuv; the definitions are in kernels/composite_yuv.py.
#include "composite_yuv.hpp"

#include <cmath>
#include <memory>

namespace mien {
namespace {

// How the samples of a plane lie in the frame: sample (i, j) at luma (step i, step j + shift).
struct Siting {
    int step;
    double shift;
};
constexpr Siting kLuma{1, 0.0}, kChroma{2, 0.5};

// What a run of samples gets: Y, U, V and mask of the crop, and the displacement of the source in luma pixels.
struct Run {
    Taps taps;
    float field[kChunk][4];
    float dx[kChunk], dy[kChunk];
    int32_t is_touched[kChunk];
};

// Narrows [begin, end) to the i whose position origin + i step lies in [low, high].
void narrow(int& begin, int& end, double origin, double step, double low, double high) {
    const auto is_in = [=](int i) { return origin + i * step >= low && origin + i * step <= high; };
    if (step != 0) {
        const double one = (low - origin) / step, other = (high - origin) / step;
        const double first = std::floor(std::min(one, other)), last = std::ceil(std::max(one, other));
        begin = static_cast<int>(std::min(std::max(first, static_cast<double>(begin)), static_cast<double>(end)));
        end = static_cast<int>(std::max(std::min(last + 1, static_cast<double>(end)), static_cast<double>(begin)));
    }
    while (begin < end && !is_in(begin)) ++begin;
    while (begin < end && !is_in(end - 1)) --end;
}

// Samples the interleaved field (S, S, 4) at run.taps; marks the samples that a mask touches, and returns whether there is one.
MIEN_INLINE bool sample_field(Run& run, const float* field, int size, int n) {
    for (int i = 0; i < n; ++i) {
        const float* at = field + 4 * (run.taps.iy[i] * size + run.taps.ix[i]);
        const float* below = at + 4 * size;
        const float fx = run.taps.fx[i], fy = run.taps.fy[i];
        for (int k = 0; k < 4; ++k) run.field[i][k] = blend(at[k], at[4 + k], below[k], below[4 + k], fx, fy);
    }
    int32_t any = 0;
    for (int i = 0; i < n; ++i) {
        run.is_touched[i] = run.field[i][3] != 0.0f;
        any |= run.is_touched[i];
    }
    return any != 0;
}

// Samples the warp at (cx, cy) in the crop and on; marks the samples it moves, and returns whether there is one.
template <typename T>
MIEN_INLINE bool sample_warp(Run& run, const CompositeJob<T>& job, int n, double cx, double dx, double cy, double dy) {
    const int grid = job.grid;
    const double ratio = static_cast<double>(grid) / job.size;
    Taps taps;
    locate_line(taps, n, grid, grid, (cx + 0.5) * ratio - 0.5, dx * ratio, (cy + 0.5) * ratio - 0.5, dy * ratio);
    float mixed[kChunk][4];  // two neighbouring nodes, rows already blended
    for (int i = 0; i < n; ++i) {
        const float* above = job.warp + 2 * (taps.iy[i] * grid + taps.ix[i]);
        const float* under = above + 2 * grid;
        for (int k = 0; k < 4; ++k) mixed[i][k] = above[k] + taps.fy[i] * (under[k] - above[k]);
    }
    const float a = static_cast<float>(job.to_frame.a), b = static_cast<float>(job.to_frame.b);
    const float d = static_cast<float>(job.to_frame.d), e = static_cast<float>(job.to_frame.e);
    int32_t any = 0;
    for (int i = 0; i < n; ++i) {
        const float wx = mixed[i][0] + taps.fx[i] * (mixed[i][2] - mixed[i][0]);
        const float wy = mixed[i][1] + taps.fx[i] * (mixed[i][3] - mixed[i][1]);
        run.dx[i] = a * wx + b * wy;
        run.dy[i] = d * wx + e * wy;
        const int32_t is_moved = (wx != 0.0f) | (wy != 0.0f);
        run.is_touched[i] |= is_moved;
        any |= is_moved;
    }
    return any != 0;
}

// Replaces base by the source at the displaced positions, where there is a displacement.
template <typename T>
MIEN_INLINE void displace(float* base, Run& run, const Plane<const T>& source, int n, int first, int row, int step) {
    const float inverse = 1.0f / static_cast<float>(step);
    float fetched[kChunk];
    locate(
        run.taps, n, source.width, source.height, first, row,
        [&](int i) { return static_cast<float>(i) + run.dx[i] * inverse; }, [&](int i) { return run.dy[i] * inverse; });
    if (step == 1) {
        sample_catmull_rom(fetched, source, run.taps, n);
    } else {
        sample_bilinear<false>(fetched, source, run.taps, n);
    }
    for (int i = 0; i < n; ++i) base[i] = (run.dx[i] != 0.0f) | (run.dy[i] != 0.0f) ? fetched[i] : base[i];
}

// One row of the planes first_plane .. last_plane, which share their positions.
template <typename T>
MIEN_INLINE void composite_row(const CompositeJob<T>& job, const float* field, const Affine& to_crop, int first_plane,
                               int last_plane, int row, const Siting& siting) {
    int begin = job.x0 / siting.step, end = (job.x1 + siting.step - 1) / siting.step;
    const double y = row * siting.step + siting.shift;
    const double cx = to_crop.b * y + to_crop.c, dx = to_crop.a * siting.step;
    const double cy = to_crop.e * y + to_crop.f, dy = to_crop.d * siting.step;
    narrow(begin, end, cx, dx, -0.5, job.size - 0.5);
    narrow(begin, end, cy, dy, -0.5, job.size - 0.5);
    const float top = static_cast<float>(job.top) + 0.5f, keep = job.is_replace ? 1.0f : 0.0f;
    Run run;
    float base[kChunk];
    for (int first = begin; first < end; first += kChunk) {
        const int n = std::min(kChunk, end - first);
        const double x = cx + first * dx, v = cy + first * dy;
        locate_line(run.taps, n, job.size, job.size, x, dx, v, dy);
        bool is_touched = sample_field(run, field, job.size, n);
        const bool is_moved = job.warp && sample_warp(run, job, n, x, dx, v, dy);
        is_touched |= is_moved;
        if (!is_touched) continue;
        for (int p = first_plane; p <= last_plane; ++p) {
            const T* from = job.source[p].data + row * job.source[p].pitch + first;
            T* to = job.target[p].data + row * job.target[p].pitch + first;
            for (int i = 0; i < n; ++i) base[i] = from[i];
            if (is_moved) displace(base, run, job.source[p], n, first, row, siting.step);
            for (int i = 0; i < n; ++i) {
                float code = base[i] + run.field[i][3] * (run.field[i][p] - keep * base[i]) + 0.5f;
                code = code > 0.0f ? code : 0.0f;
                code = code < top ? code : top;
                to[i] = run.is_touched[i] ? static_cast<T>(static_cast<int>(code)) : from[i];
            }
        }
    }
}

template <typename T>
MIEN_INLINE void composite_rows(const CompositeJob<T>& job, const float* field, int first, int last) {
    const Affine to_crop = job.to_frame.inverse();
    for (int row = first; row < last; ++row) {
        for (int luma = 2 * row; luma < std::min(2 * row + 2, job.y1); ++luma) {
            composite_row(job, field, to_crop, 0, 0, luma, kLuma);
        }
        composite_row(job, field, to_crop, 1, 2, row, kChroma);
    }
}

// Interleaves Y, U, V (codes, of rgb) and the mask as (S, S, 4): one sample's taps then lie side by side.
MIEN_CLONES void interleave(float* field, const float* rgb, const float* mask, int area, const double* linear, const double* offset) {
    float m[9], c[3];
    for (int k = 0; k < 9; ++k) m[k] = static_cast<float>(linear[k]);
    for (int k = 0; k < 3; ++k) c[k] = static_cast<float>(offset[k]);
    for (int i = 0; i < area; ++i) {
        const float r = rgb[i], g = rgb[area + i], b = rgb[2 * area + i];
        for (int k = 0; k < 3; ++k) field[4 * i + k] = m[3 * k] * r + m[3 * k + 1] * g + m[3 * k + 2] * b + c[k];
        field[4 * i + 3] = mask[i];
    }
}

MIEN_CLONES void composite_rows_8(const CompositeJob<uint8_t>& job, const float* field, int first, int last) {
    composite_rows(job, field, first, last);
}
MIEN_CLONES void composite_rows_10(const CompositeJob<uint16_t>& job, const float* field, int first, int last) {
    composite_rows(job, field, first, last);
}

template <typename T, typename Rows>
void run(const CompositeJob<T>& job, int threads, Rows rows) {
    const int area = job.size * job.size;
    const std::unique_ptr<float[]> field(new float[4 * static_cast<size_t>(area)]);
    interleave(field.get(), job.rgb, job.mask, area, job.linear, job.offset);
    for_rows(threads, job.y0 / 2, (job.y1 + 1) / 2, [&](int first, int last) { rows(job, field.get(), first, last); });
}

}  // namespace

void composite(const CompositeJob<uint8_t>& job, int threads) { run(job, threads, composite_rows_8); }
void composite(const CompositeJob<uint16_t>& job, int threads) { run(job, threads, composite_rows_10); }

}  // namespace mien
