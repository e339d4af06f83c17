// mien._native: the CPU paths of mien.kernels. Arguments are checked in Python; every call runs without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <optional>

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include "composite_yuv.hpp"
#include "crop_yuv.hpp"
#include "spans.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <typename T>
using Picture = nb::ndarray<T, nb::numpy, nb::ndim<2>, nb::device::cpu>;
using Doubles = nb::ndarray<const double, nb::numpy, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::numpy, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::numpy, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

template <typename T>
mien::Plane<T> plane(const Picture<T>& picture) {
    return {picture.data(), static_cast<int>(picture.shape(1)), static_cast<int>(picture.shape(0)),
            static_cast<ptrdiff_t>(picture.stride(0))};
}

mien::Affine affine(const Doubles& m) {
    const double* p = m.data();
    return {p[0], p[1], p[2], p[3], p[4], p[5]};
}

template <typename T>
void crop_yuv(Picture<const T> y, Picture<const T> u, Picture<const T> v, Doubles crop_to_frame, int luma_k, int chroma_k,
              Doubles linear, Doubles offset, int threads, FloatsOut out) {
    const mien::CropJob<T> job{{plane(y), plane(u), plane(v)}, affine(crop_to_frame), static_cast<int>(out.shape(1)),
                               luma_k, chroma_k, linear.data(), offset.data(), out.data()};
    const nb::gil_scoped_release release;
    mien::crop(job, threads);
}

template <typename T>
void composite_yuv(Picture<const T> y, Picture<const T> u, Picture<const T> v, Picture<T> out_y, Picture<T> out_u,
                   Picture<T> out_v, Picture<const T> frame_y, Picture<const T> frame_u, Picture<const T> frame_v, Doubles crop_to_frame, Floats rgb, Floats mask, std::optional<Floats> warp,
                   std::optional<Floats> guide, bool is_replace, Doubles linear, Doubles offset, int x0, int y0, int x1, int y1, int top, int threads) {
    const mien::CompositeJob<T> job{{plane(y), plane(u), plane(v)},
                                    {plane(out_y), plane(out_u), plane(out_v)},
                                    {plane(frame_y), plane(frame_u), plane(frame_v)},
                                    affine(crop_to_frame),
                                    static_cast<int>(mask.shape(0)),
                                    rgb.data(),
                                    mask.data(),
                                    warp ? warp->data() : nullptr,
                                    warp ? static_cast<int>(warp->shape(0)) : 0,
                                    guide ? guide->data() : nullptr,
                                    guide ? static_cast<int>(guide->shape(0)) : 0,
                                    is_replace,
                                    linear.data(),
                                    offset.data(),
                                    x0, y0, x1, y1, top};
    const nb::gil_scoped_release release;
    mien::composite(job, threads);
}

std::pair<float, float> extent(const Floats& numbers) {
    const mien::Extent found = mien::extent(numbers.data(), numbers.size());
    return {found.low, found.high};
}

template <typename T>
void define(nb::module_& m) {
    m.def("crop_yuv", &crop_yuv<T>, "y"_a, "u"_a, "v"_a, "crop_to_frame"_a, "luma_k"_a, "chroma_k"_a, "linear"_a, "offset"_a,
          "threads"_a, "out"_a, "Write an aligned crop into `out`; see mien.kernels.crop_yuv.");
    m.def("composite_yuv", &composite_yuv<T>, "y"_a, "u"_a, "v"_a, "out_y"_a, "out_u"_a, "out_v"_a, "frame_y"_a, "frame_u"_a,
          "frame_v"_a, "crop_to_frame"_a, "rgb"_a,
          "mask"_a, "warp"_a.none(), "guide"_a.none(), "is_replace"_a, "linear"_a, "offset"_a, "x0"_a, "y0"_a, "x1"_a, "y1"_a, "top"_a, "threads"_a,
          "Write an edited crop into the box of `out_*`; see mien.kernels.composite_yuv.");
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "CPU paths of mien.kernels.";
    define<uint8_t>(m);
    define<uint16_t>(m);
    m.def("extent", &extent, "numbers"_a, "Return the lowest and the highest of float32 numbers, (nan, nan) unless all are finite.");
}
