// crop_yuv: an aligned RGB crop from 4:2:0 planes; the definition is kernels/crop_yuv.py.
#include "crop_yuv.hpp"

#include <vector>

namespace mien {
namespace {

// Writes to sums[0..count) the sums over k x k positions of crop row v, for `count` planes of one size.
template <typename T>
MIEN_INLINE void sum_row(float* const* sums, const Plane<const T>* planes, int count, int n, const Affine& to_plane, int v, int k) {
    const int width = planes[0].width, height = planes[0].height;
    Taps taps;
    for (int p = 0; p < count; ++p) std::fill(sums[p], sums[p] + n, 0.0f);
    for (int sub = 0; sub < k * k; ++sub) {
        const double u0 = (sub % k + 0.5) / k - 0.5, v0 = v + (sub / k + 0.5) / k - 0.5;
        const double x0 = to_plane.a * u0 + to_plane.b * v0 + to_plane.c, y0 = to_plane.d * u0 + to_plane.e * v0 + to_plane.f;
        for (int start = 0; start < n; start += kChunk) {
            const int run = std::min(kChunk, n - start);
            locate_line(taps, run, width, height, x0 + start * to_plane.a, to_plane.a, y0 + start * to_plane.d, to_plane.d);
            for (int p = 0; p < count; ++p) sample_bilinear<true>(sums[p] + start, planes[p], taps, run);
        }
    }
}

template <typename T>
MIEN_INLINE void crop_rows(const CropJob<T>& job, int first, int last) {
    const int size = job.size;
    const Affine& to_luma = job.to_luma;
    const Affine to_chroma{to_luma.a / 2, to_luma.b / 2, to_luma.c / 2,
                           to_luma.d / 2, to_luma.e / 2, (to_luma.f - 0.5) / 2};
    std::vector<float> rows(3 * static_cast<size_t>(size));
    float *y = rows.data(), *u = y + size, *v = u + size;
    float* const sums[3] = {y, u, v};
    const float luma = 1.0f / static_cast<float>(job.luma_k * job.luma_k);
    const float chroma = 1.0f / static_cast<float>(job.chroma_k * job.chroma_k);
    for (int row = first; row < last; ++row) {
        sum_row(&sums[0], &job.planes[0], 1, size, to_luma, row, job.luma_k);
        sum_row(&sums[1], &job.planes[1], 2, size, to_chroma, row, job.chroma_k);
        for (int channel = 0; channel < 3; ++channel) {
            const float my = static_cast<float>(job.linear[3 * channel]) * luma;
            const float mu = static_cast<float>(job.linear[3 * channel + 1]) * chroma;
            const float mv = static_cast<float>(job.linear[3 * channel + 2]) * chroma;
            const float offset = static_cast<float>(job.offset[channel]);
            float* target = job.out + (static_cast<size_t>(channel) * size + row) * size;
            for (int i = 0; i < size; ++i) {
                const float value = my * y[i] + mu * u[i] + mv * v[i] + offset;
                target[i] = std::min(std::max(value, -1.0f), 1.0f);
            }
        }
    }
}

MIEN_CLONES void crop_rows_8(const CropJob<uint8_t>& job, int first, int last) { crop_rows(job, first, last); }
MIEN_CLONES void crop_rows_10(const CropJob<uint16_t>& job, int first, int last) { crop_rows(job, first, last); }

}  // namespace

void crop(const CropJob<uint8_t>& job, int threads) {
    for_rows(threads, 0, job.size, [&job](int first, int last) { crop_rows_8(job, first, last); });
}

void crop(const CropJob<uint16_t>& job, int threads) {
    for_rows(threads, 0, job.size, [&job](int first, int last) { crop_rows_10(job, first, last); });
}

}  // namespace mien
