// composite_delta_yuv and composite_replace_yuv; the definitions are in kernels/composite_yuv.py.
#pragma once
#include <cstdint>

#include "sample.hpp"

namespace mien {

template <typename T>
struct CompositeJob {
    Plane<const T> source[3];  // Y, U, V as decoded
    Plane<T> target[3];        // hold a copy of the source; written inside the box only
    Plane<const T> frame[3];   // whose colours the guide takes
    Affine to_frame;           // crop pixels to luma pixels
    int size;                  // S, at least 2
    const float* rgb;          // (3, S, S), a difference (delta) or a picture (replace)
    const float* mask;         // (S, S) in [0, 1]
    const float* warp;         // (G, G, 2) in crop pixels, or null
    int grid;                  // G, at least 2
    const float* guide;        // (H, H, 4), of codes of Y, U, V and 1, or null
    int guide_grid;            // H, at least 2
    bool is_replace;           // whether rgb takes the source's place, or is added to it
    const double* linear;      // (3, 3), RGB on [-1, 1] to YUV codes
    const double* offset;      // (3,)
    int x0, y0, x1, y1;        // the box, in luma pixels, x1 and y1 exclusive
    int top;                   // largest code
};

void composite(const CompositeJob<uint8_t>& job, int threads);
void composite(const CompositeJob<uint16_t>& job, int threads);

}  // namespace mien
