// crop_yuv: an aligned RGB crop from 4:2:0 planes; the definition is kernels/crop_yuv.py.
#pragma once
#include <cstdint>

#include "sample.hpp"

namespace mien {

template <typename T>
struct CropJob {
    Plane<const T> planes[3];  // Y, U, V
    Affine to_luma;            // crop pixels to luma pixels
    int size;                  // S
    int luma_k, chroma_k;      // samples per axis that one crop pixel averages
    const double* linear;      // (3, 3), YUV codes to RGB on [-1, 1]
    const double* offset;      // (3,)
    float* out;                // (3, S, S)
};

void crop(const CropJob<uint8_t>& job, int threads);
void crop(const CropJob<uint16_t>& job, int threads);

}  // namespace mien
