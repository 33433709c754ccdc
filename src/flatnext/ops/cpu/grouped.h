// What the forms of the grouped 3x3 convolution share.

#pragma once
#include "vectors.h"

namespace {

struct Image {
    long height, width, channels;
    long at(long row, long column) const { return (row * width + column) * channels; }
    long size() const { return height * width * channels; }
};

constexpr int COLUMNS = 8;  // outputs of a row that are worked out together, in registers

// Adds up the parts, in their order, and puts each sum where the weight lies.
template <int G> void gather(const std::vector<Vec> &sums, long parts, long channels, float *dweight) {
    const long size = channels / LANES * 9 * G;
#pragma omp parallel for schedule(static)
    for (long i = 0; i < size; ++i) {
        const long tile = i / (9 * G), tap = i / G % 9, o = i % G;
        Vec sum = {};
        for (long part = 0; part < parts; ++part) sum += sums[part * size + i];
        for (int lane = 0; lane < LANES; ++lane) {
            const long in = tile * LANES + lane, out = in / G * G + o;
            dweight[(out * G + in % G) * 9 + tap] = sum[lane];
        }
    }
}

// Calls work(group size, stride) with both known to the compiler; false if they are not among those compiled.
template <class Work> bool with_shape(long group, long stride, Work work) {
    auto by_stride = [&](auto g) {
        if (stride == 1) return work(g, std::integral_constant<int, 1>()), true;
        if (stride == 2) return work(g, std::integral_constant<int, 2>()), true;
        return false;
    };
    if (group == 4) return by_stride(std::integral_constant<int, 4>());
    if (group == 8) return by_stride(std::integral_constant<int, 8>());
    if (group == 16) return by_stride(std::integral_constant<int, 16>());
    return false;
}

}  // namespace
