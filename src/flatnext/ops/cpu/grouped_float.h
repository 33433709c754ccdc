// Grouped 3x3 convolution, padding 1, of float32. oneDNN leaves most of a vector unused where it is wider than a group.
//
// A vector holds neighbouring output channels. Each input of their group is spread over its lanes and multiplied by its
// weights.

#pragma once
#include "grouped.h"

#ifdef FLOAT_FORM
namespace float_form {
namespace {

constexpr int LINE = 16;  // channels in a cache line: whole groups, and one or two vectors

// The channels of a cache line of an image, pixel by pixel with nothing between them: as they lie in an image, a power of
// two apart, few of them would fit into the cache at once. Around them lie zeros.
struct Slice {
    long width;  // of a row, with its border
    std::vector<float> numbers;
    explicit Slice(Image of) : width(of.width + 2 + 2 * COLUMNS), numbers((of.height + 2) * width * LINE) {}
    float *row(long r) { return &numbers[((r + 1) * width + 1) * LINE]; }
    void fill(const float *from, Image of) {
        for (long r = 0; r < of.height; ++r)
            for (long c = 0; c < of.width; ++c)
                std::memcpy(row(r) + c * LINE, from + of.at(r, c), LINE * sizeof(float));
    }
};

// On every lane of the vector that begins at channel `first` of a pixel, the value that lane's group has at place `j`.
template <int G> inline __attribute__((always_inline)) Vec spread(const float *pixel, int first, int j) {
    if constexpr (G < LANES) {
        IVec index;
        for (int lane = 0; lane < LANES; ++lane) index[lane] = lane / G * G + j;
        return __builtin_shuffle(load(pixel + first), index);
    } else
        return everywhere(pixel[first / G * G + j]);
}

// packed[tap][j] = on lane l the weight by which input j of l's group enters output channel l. For the gradient of the
// input (UP) output and input change places.
template <int G> void pack(const float *weight, long channel, bool up, Vec (*packed)[G]) {
    for (int tap = 0; tap < 9; ++tap)
        for (int j = 0; j < G; ++j)
            for (int lane = 0; lane < LANES; ++lane) {
                const long group = (channel + lane) / G, here = (channel + lane) % G;
                const long out = up ? j : here, in = up ? here : j;
                packed[tap][j][lane] = weight[((group * G + out) * G + in) * 9 + tap];
            }
}

// One row's contribution to COLUMNS outputs. Source column p meets output a by column `tap` of the kernel where
// a * STRIDE + tap - 1 == p; for the gradient of the input (UP) where a == p * STRIDE + tap - 1.
template <int G, int STRIDE, bool UP>
inline __attribute__((always_inline)) void add_row(Vec *sum, const float *row, int first, const Vec (*packed)[G]) {
    constexpr int LEFT = UP && STRIDE == 2 ? 0 : -1;
    constexpr int RIGHT = UP ? (STRIDE == 2 ? COLUMNS / 2 + 1 : COLUMNS + 1) : (COLUMNS - 1) * STRIDE + 2;
#pragma GCC unroll 4
    for (int j = 0; j < G; ++j) {
        const Vec weight[3] = {packed[0][j], packed[1][j], packed[2][j]};
#pragma GCC unroll 32
        for (int p = LEFT; p < RIGHT; ++p) {
            const Vec input = spread<G>(row + p * LINE, first, j);
#pragma GCC unroll 3
            for (int tap = 0; tap < 3; ++tap) {
                const int a = UP ? p * STRIDE + tap - 1 : (p + 1 - tap + 2 * STRIDE) / STRIDE - 2;
                const bool meets = UP || a * STRIDE == p + 1 - tap;
                if (meets && a >= 0 && a < COLUMNS) sum[a] += input * weight[tap];
            }
        }
    }
}

// UP: from the gradient of the output to that of the input; `source` is the smaller image then. `bias`, one number a
// channel, may be null.
template <int G, int STRIDE, bool UP>
void convolve(const float *source, const float *weight, const float *bias, float *target, long images, Image from, Image to,
              bool with_relu) {
    const long channels = from.channels;
    std::vector<Vec> all(channels / LANES * 9 * G);
    auto packed_at = [&](long channel) { return reinterpret_cast<Vec(*)[G]>(&all[channel / LANES * 9 * G]); };
    for (long channel = 0; channel < channels; channel += LANES) pack<G>(weight, channel, UP, packed_at(channel));
#pragma omp parallel
    {
        Slice slice(from);
#pragma omp for schedule(static) collapse(2)
        for (long image = 0; image < images; ++image)
            for (long line = 0; line < channels; line += LINE) {
                slice.fill(source + image * from.size() + line, from);
                for (int lane = 0; lane < LINE; lane += LANES) {
                    float *y = target + image * to.size() + line + lane;
                    const Vec(*packed)[G] = packed_at(line + lane);
                    const Vec start = bias ? load(bias + line + lane) : Vec{};
                    for (long row = 0; row < to.height; ++row)
                        for (long first = 0; first < to.width; first += COLUMNS) {
                            const long origin = UP ? first / STRIDE : first * STRIDE;
                            Vec sum[COLUMNS];
                            for (int a = 0; a < COLUMNS; ++a) sum[a] = start;
                            for (int tap = 0; tap < 3; ++tap) {
                                const long scaled = UP ? row + 1 - tap : row * STRIDE + tap - 1;
                                if (UP && scaled % STRIDE) continue;
                                const long r = UP ? scaled / STRIDE : scaled;
                                add_row<G, STRIDE, UP>(sum, slice.row(r) + origin * LINE, lane, packed + tap * 3);
                            }
                            const long count = std::min<long>(COLUMNS, to.width - first);
#pragma GCC unroll 8
                            for (int a = 0; a < COLUMNS; ++a)
                                if (a < count) store(y + to.at(row, first + a), with_relu ? relu(sum[a]) : sum[a]);
                        }
                }
            }
    }
}

// total[tap][o] has on lane l the gradient of the weight by which input l enters output o of l's group.
template <int G, int STRIDE>
void add_image(Slice &x, Slice &gradient, int lane, Image to, Vec (*total)[G]) {
    constexpr int CHUNK = 4;  // outputs whose sums stay in registers
    for (int tap_row = 0; tap_row < 3; ++tap_row)
        for (int o = 0; o < G; o += CHUNK) {
            Vec sum[3][CHUNK] = {};
            for (long row = 0; row < to.height; ++row) {
                const float *source = x.row(row * STRIDE + tap_row - 1) + lane, *given = gradient.row(row);
                for (long c = 0; c < to.width; ++c) {
                    Vec input[3];
#pragma GCC unroll 3
                    for (int tap = 0; tap < 3; ++tap) input[tap] = load(source + (c * STRIDE + tap - 1) * LINE);
#pragma GCC unroll 4
                    for (int k = 0; k < CHUNK; ++k) {
                        const Vec output = spread<G>(given + c * LINE, lane, o + k);
#pragma GCC unroll 3
                        for (int tap = 0; tap < 3; ++tap) sum[tap][k] += input[tap] * output;
                    }
                }
            }
#pragma GCC unroll 3
            for (int tap = 0; tap < 3; ++tap)
#pragma GCC unroll 4
                for (int k = 0; k < CHUNK; ++k) total[tap_row * 3 + tap][o + k] += sum[tap][k];
        }
}

template <int G, int STRIDE>
void weight_gradient(const float *x, const float *gradient, float *dweight, long images, Image from, Image to) {
    const long channels = from.channels, tiles = channels / LANES;
    const long parts = std::min<long>(images, 4);  // a fixed number: the order of the sums is that of no thread
    std::vector<Vec> sums(parts * tiles * 9 * G);
#pragma omp parallel
    {
        Slice inputs(from), gradients(to);
#pragma omp for schedule(static) collapse(2)
        for (long part = 0; part < parts; ++part)
            for (long line = 0; line < channels; line += LINE)
                for (long image = part; image < images; image += parts) {
                    inputs.fill(x + image * from.size() + line, from);
                    gradients.fill(gradient + image * to.size() + line, to);
                    for (int lane = 0; lane < LINE; lane += LANES) {
                        const long tile = (line + lane) / LANES;
                        auto total = reinterpret_cast<Vec(*)[G]>(&sums[(part * tiles + tile) * 9 * G]);
                        add_image<G, STRIDE>(inputs, gradients, lane, to, total);
                    }
                }
    }
    gather<G>(sums, parts, channels, dweight);
}

}  // namespace
}  // namespace float_form
#endif
