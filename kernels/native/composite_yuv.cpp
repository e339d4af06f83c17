// composite_delta_yuv and composite_replace_yuv; the definitions are in kernels/composite_yuv.py.
#include "composite_yuv.hpp"

#include <cmath>
#include <vector>

#include "spans.hpp"

namespace mien {
namespace {

// How the samples of a plane lie in the frame: sample (i, j) at luma (step i, step j + shift).
struct Siting {
    int step;
    double shift;
};
constexpr Siting kLuma{1, 0.0}, kChroma{2, 0.5};

// What a run of samples gets: the crop's codes (Y, or U and V) and mask, and the displacement of the source in luma pixels.
struct Run {
    Taps taps;
    float value[2][kChunk], mask[kChunk];
    float dx[kChunk], dy[kChunk];
};

// The crop as the planes take it: taps of one sample lie side by side. Only the rows that are read are filled in.
struct Field {
    const float* luma;    // (S, S, 2): Y, mask
    const float* chroma;  // (S, S, 4): U, V, mask, 0
};

// Blends rows, then columns, of pictures whose samples are pairs: out[k] at run.taps.
MIEN_INLINE void sample_pairs(float* first, float* second, const float* pairs, const Taps& taps, int width, int n) {
    float mixed[kChunk][4];  // two neighbouring pairs, rows already blended
    int32_t offsets[kChunk];
    offsets_of(offsets, taps, width, n);
    for (int i = 0; i < n; ++i) {
        const float* above = pairs + 2 * offsets[i];
        const float* under = above + 2 * width;
        for (int k = 0; k < 4; ++k) mixed[i][k] = above[k] + taps.fy[i] * (under[k] - above[k]);
    }
    for (int i = 0; i < n; ++i) {
        first[i] = mixed[i][0] + taps.fx[i] * (mixed[i][2] - mixed[i][0]);
        second[i] = mixed[i][1] + taps.fx[i] * (mixed[i][3] - mixed[i][1]);
    }
}

// Samples a field (width, width, 4) at the taps.
MIEN_INLINE void sample_fours(float (*mixed)[4], const float* field, const Taps& taps, int width, int n) {
    int32_t offsets[kChunk];
    offsets_of(offsets, taps, width, n);
    for (int i = 0; i < n; ++i) {
        const float* at = field + 4 * offsets[i];
        const float* below = at + 4 * width;
        for (int k = 0; k < 4; ++k) mixed[i][k] = blend(at[k], at[4 + k], below[k], below[4 + k], taps.fx[i], taps.fy[i]);
    }
}

// Samples the field (S, S, 4) of U, V and the mask at run.taps.
MIEN_INLINE void sample_chroma(Run& run, const float* field, int size, int n) {
    float mixed[kChunk][4];
    sample_fours(mixed, field, run.taps, size, n);
    for (int i = 0; i < n; ++i) {
        run.value[0][i] = mixed[i][0];
        run.value[1][i] = mixed[i][1];
        run.mask[i] = mixed[i][2];
    }
}

// Samples the warp at n nodes' positions from sample `first` of the line on; returns those that it moves, relative to `first`.
template <typename T>
MIEN_INLINE Range sample_warp(Run& run, const CompositeJob<T>& job, int n, int first, const Line& nodes) {
    Taps taps;
    locate_line(taps, n, job.grid, job.grid, nodes.x + first * nodes.dx, nodes.dx, nodes.y + first * nodes.dy, nodes.dy);
    sample_pairs(run.dx, run.dy, job.warp, taps, job.grid, n);
    const float a = static_cast<float>(job.to_frame.a), b = static_cast<float>(job.to_frame.b);
    const float d = static_cast<float>(job.to_frame.d), e = static_cast<float>(job.to_frame.e);
    for (int i = 0; i < n; ++i) {
        const float wx = run.dx[i], wy = run.dy[i];
        run.dx[i] = a * wx + b * wy;
        run.dy[i] = d * wx + e * wy;
    }
    const auto is_moved = [&run](int i) { return (run.dx[i] != 0.0f) | (run.dy[i] != 0.0f); };
    Range moved{0, n};
    while (moved.begin < moved.end && !is_moved(moved.begin)) ++moved.begin;
    while (moved.begin < moved.end && !is_moved(moved.end - 1)) --moved.end;
    return moved;
}

// Multiplies the mask by what the guide makes of the frame's codes at samples `first` to `first + n` of a row of luma or chroma.
template <typename T>
MIEN_INLINE void guide_mask(Run& run, const CompositeJob<T>& job, int n, int first, int row, const Line& nodes, bool is_luma) {
    Taps taps;
    float gains[kChunk][4], codes[3][kChunk];
    locate_line(taps, n, job.guide_grid, job.guide_grid, nodes.x + first * nodes.dx, nodes.dx, nodes.y + first * nodes.dy, nodes.dy);
    sample_fours(gains, job.guide, taps, job.guide_grid, n);
    const Plane<const T>&y = job.frame[0], &u = job.frame[1], &v = job.frame[2];
    if (is_luma) {
        const T* luma = y.data + row * y.pitch;
        const int near = row / 2, far = std::clamp(row % 2 ? near + 1 : near - 1, 0, u.height - 1);
        for (int i = 0; i < n; ++i) {
            const int left = (first + i) / 2, right = std::min((first + i + 1) / 2, u.width - 1);
            codes[0][i] = luma[first + i];
            for (int c = 1; c < 3; ++c) {
                const T *close = job.frame[c].data + near * job.frame[c].pitch, *away = job.frame[c].data + far * job.frame[c].pitch;
                codes[c][i] = 0.375f * static_cast<float>(close[left] + close[right]) + 0.125f * static_cast<float>(away[left] + away[right]);
            }
        }
    } else {
        const T* upper = y.data + 2 * row * y.pitch;
        const T* lower = y.data + std::min(2 * row + 1, y.height - 1) * y.pitch;
        const T *blue = u.data + row * u.pitch, *red = v.data + row * v.pitch;
        for (int i = 0; i < n; ++i) {
            const int left = 2 * (first + i), right = std::min(left + 1, y.width - 1);
            codes[0][i] = 0.25f * static_cast<float>(upper[left] + upper[right] + lower[left] + lower[right]);
            codes[1][i] = blue[first + i];
            codes[2][i] = red[first + i];
        }
    }
    for (int i = 0; i < n; ++i) {
        float share = gains[i][0] * codes[0][i] + gains[i][1] * codes[1][i] + gains[i][2] * codes[2][i] + gains[i][3];
        share = share > 0.0f ? share : 0.0f;
        run.mask[i] *= share < 1.0f ? share : 1.0f;
    }
}

// Replaces base by the source at the displaced positions, where there is a displacement.
template <typename T>
MIEN_INLINE void displace(float* base, Run& run, const Plane<const T>& source, Range moved, int first, int row, int step) {
    const float inverse = 1.0f / static_cast<float>(step);
    const float *dx = run.dx + moved.begin, *dy = run.dy + moved.begin;
    const int n = moved.end - moved.begin;
    float fetched[kChunk];
    locate(
        run.taps, n, source.width, source.height, first + moved.begin, row,
        [=](int i) { return static_cast<float>(i) + dx[i] * inverse; }, [=](int i) { return dy[i] * inverse; });
    if (step == 1) {
        sample_catmull_rom(fetched, source, run.taps, n);
    } else {
        sample_bilinear<false>(fetched, source, run.taps, n);
    }
    base += moved.begin;
    for (int i = 0; i < n; ++i) base[i] = (dx[i] != 0.0f) | (dy[i] != 0.0f) ? fetched[i] : base[i];
}

// One row of the planes first_plane .. last_plane, which share their positions.
template <typename T>
MIEN_INLINE void composite_row(const CompositeJob<T>& job, const Field& field, const Spans& masked, const Spans& moving,
                               const Affine& to_crop, int first_plane, int last_plane, int row, const Siting& siting) {
    const double y = row * siting.step + siting.shift;
    const Line line{to_crop.b * y + to_crop.c, to_crop.a * siting.step, to_crop.e * y + to_crop.f, to_crop.d * siting.step};
    const Line nodes = line.scaled(static_cast<double>(job.grid) / job.size);
    const Line guide_nodes = line.scaled(static_cast<double>(job.guide_grid) / job.size);
    Range square{job.x0 / siting.step, (job.x1 + siting.step - 1) / siting.step};
    square = narrow(square, line.x, line.dx, -0.5, job.size - 0.5);
    square = narrow(square, line.y, line.dy, -0.5, job.size - 0.5);
    const Range mask = masked.narrow_to(square, line), warp = moving.narrow_to(square, nodes), both = mask.with(warp);
    const float top = static_cast<float>(job.top) + 0.5f, keep = job.is_replace ? 1.0f : 0.0f;
    Run run;
    float base[kChunk];
    for (int first = both.begin; first < both.end; first += kChunk) {
        const int n = std::min(kChunk, both.end - first);
        Range moved{0, 0};
        if (warp.meets(first, n)) moved = sample_warp(run, job, n, first, nodes);
        if (moved.is_empty() && !mask.meets(first, n)) continue;
        if (moved.is_empty()) {
            std::fill(run.dx, run.dx + n, 0.0f);
            std::fill(run.dy, run.dy + n, 0.0f);
        }
        locate_line(run.taps, n, job.size, job.size, line.x + first * line.dx, line.dx, line.y + first * line.dy, line.dy);
        if (first_plane == 0) {
            sample_pairs(run.value[0], run.mask, field.luma, run.taps, job.size, n);
        } else {
            sample_chroma(run, field.chroma, job.size, n);
        }
        if (job.guide) guide_mask(run, job, n, first, row, guide_nodes, first_plane == 0);
        for (int p = first_plane; p <= last_plane; ++p) {
            const T* from = job.source[p].data + row * job.source[p].pitch + first;
            T* to = job.target[p].data + row * job.target[p].pitch + first;
            const float* value = run.value[p - first_plane];
            for (int i = 0; i < n; ++i) base[i] = from[i];
            if (!moved.is_empty()) displace(base, run, job.source[p], moved, first, row, siting.step);
            for (int i = 0; i < n; ++i) {
                float code = base[i] + run.mask[i] * (value[i] - keep * base[i]) + 0.5f;
                code = code > 0.0f ? code : 0.0f;
                code = code < top ? code : top;
                const bool is_touched = (run.mask[i] != 0.0f) | (run.dx[i] != 0.0f) | (run.dy[i] != 0.0f);
                to[i] = is_touched ? static_cast<T>(static_cast<int>(code)) : from[i];
            }
        }
    }
}

template <typename T>
MIEN_INLINE void composite_rows(const CompositeJob<T>& job, const Field& field, const Spans& masked, const Spans& moving, int first,
                                int last) {
    const Affine to_crop = job.to_frame.inverse();
    for (int row = first; row < last; ++row) {
        for (int luma = 2 * row; luma < std::min(2 * row + 2, job.y1); ++luma) {
            composite_row(job, field, masked, moving, to_crop, 0, 0, luma, kLuma);
        }
        composite_row(job, field, masked, moving, to_crop, 1, 2, row, kChroma);
    }
}

MIEN_CLONES void composite_rows_8(const CompositeJob<uint8_t>& job, const Field& field, const Spans& masked, const Spans& moving,
                                  int first, int last) {
    composite_rows(job, field, masked, moving, first, last);
}
MIEN_CLONES void composite_rows_10(const CompositeJob<uint16_t>& job, const Field& field, const Spans& masked, const Spans& moving,
                                   int first, int last) {
    composite_rows(job, field, masked, moving, first, last);
}

// Writes Y and the mask, and U, V (codes, of rgb) and the mask, of `count` pixels from `start` on.
MIEN_CLONES void interleave(float* luma, float* chroma, const float* rgb, const float* mask, int area, int start, int count,
                            const double* linear, const double* offset) {
    float m[9], c[3];
    for (int k = 0; k < 9; ++k) m[k] = static_cast<float>(linear[k]);
    for (int k = 0; k < 3; ++k) c[k] = static_cast<float>(offset[k]);
    const float *red = rgb + start, *green = red + area, *blue = green + area;
    luma += 2 * start, chroma += 4 * start, mask += start;
    for (int i = 0; i < count; ++i) {
        const float r = red[i], g = green[i], b = blue[i];
        luma[2 * i] = m[0] * r + m[1] * g + m[2] * b + c[0];
        luma[2 * i + 1] = mask[i];
        chroma[4 * i] = m[3] * r + m[4] * g + m[5] * b + c[1];
        chroma[4 * i + 1] = m[6] * r + m[7] * g + m[8] * b + c[2];
        chroma[4 * i + 2] = mask[i];
        chroma[4 * i + 3] = 0.0f;
    }
}

// The mask below which no code changes: what it lets through stays under half a code, whatever the neighbours' weights.
template <typename T>
float least_mask(const CompositeJob<T>& job) {
    const Extent rgb = extent(job.rgb, 3 * static_cast<size_t>(job.size) * job.size);
    const double peak = std::max(std::abs(rgb.low), std::abs(rgb.high));
    double most = 0.0;
    for (int k = 0; k < 3; ++k) {
        const double* row = job.linear + 3 * k;
        most = std::max(most, peak * (std::abs(row[0]) + std::abs(row[1]) + std::abs(row[2])) + std::abs(job.offset[k]));
    }
    if (job.is_replace) most += job.top;
    return most > 0.0 ? static_cast<float>(std::min(0.49 / most, 1.0)) : 1.0f;
}

// The crop's rows that samples within the spans read.
template <typename T>
Range rows_read(const CompositeJob<T>& job, const Spans& masked, const Spans& moving) {
    Range rows{0, 0};
    if (!masked.is_empty()) rows = {masked.top() - 3, masked.bottom() + 4};
    if (!moving.is_empty()) {
        const double pitch = static_cast<double>(job.size) / job.grid;
        rows = rows.with({static_cast<int>((moving.top() - 1) * pitch) - 3, static_cast<int>((moving.bottom() + 2) * pitch) + 4});
    }
    return {std::max(rows.begin, 0), std::min(rows.end, job.size)};
}

template <typename T, typename Rows>
void run(const CompositeJob<T>& job, int threads, Rows composite_band) {
    const int size = job.size, area = size * size;
    const Spans masked = spans_of(job.mask, size, 1, least_mask(job));
    const Spans moving = job.warp ? spans_of(job.warp, job.grid, 2, 0.0f) : Spans(0);
    const Range read = rows_read(job, masked, moving);
    if (read.is_empty()) return;
    thread_local std::vector<float> kept;  // fresh pages would cost more than what is written there
    if (kept.size() < 6 * static_cast<size_t>(area)) kept.resize(6 * static_cast<size_t>(area));
    float *luma = kept.data(), *chroma = luma + 2 * area;
    interleave(luma, chroma, job.rgb, job.mask, area, read.begin * size, (read.end - read.begin) * size, job.linear, job.offset);
    const Field field{luma, chroma};
    for_rows(threads, job.y0 / 2, (job.y1 + 1) / 2,
             [&](int first, int last) { composite_band(job, field, masked, moving, first, last); });
}

}  // namespace

void composite(const CompositeJob<uint8_t>& job, int threads) { run(job, threads, composite_rows_8); }
void composite(const CompositeJob<uint16_t>& job, int threads) { run(job, threads, composite_rows_10); }

}  // namespace mien
