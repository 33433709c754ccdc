// Grouped 3x3 convolution, padding 1, of bf16, for CPUs that multiply bf16.
//
// A vector holds 16 neighbouring channels, that is 16 / G groups of G. The instruction multiplies pairs of bf16 and adds
// both products to a float32 lane.

#pragma once
#include "grouped.h"

#ifdef BF16_FORM
namespace bf16_form {
namespace {

typedef __m256i Pixel;  // 16 channels
typedef __m512i Pairs;  // 16 lanes of two bf16

inline Vec dot(Vec sum, Pairs a, Pairs b) { return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
inline Pixel pixel(const bf16 *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }

// On every lane of a group the inputs 2j and 2j+1 of that group.
template <int G> inline Pairs spread_pair(Pixel x, int j) {
    IVec index;
    for (int lane = 0; lane < LANES; ++lane) index[lane] = lane / G * (G / 2) + j;
    return _mm512_permutexvar_epi32((__m512i)index, _mm512_castsi256_si512(x));
}

// packed[tap][j] = on lane l the weights by which the inputs 2j and 2j+1 of l's group enter output channel l. For the
// gradient of the input (UP) output and input change places.
template <int G> void pack(const float *weight, long channel, bool up, Pairs (*packed)[G / 2]) {
    for (int tap = 0; tap < 9; ++tap)
        for (int j = 0; j < G / 2; ++j) {
            Vec part[2];
            for (int lane = 0; lane < LANES; ++lane)
                for (int k = 0; k < 2; ++k) {
                    const long group = channel / G + lane / G;
                    const long out = up ? 2 * j + k : lane % G, in = up ? lane % G : 2 * j + k;
                    part[k][lane] = weight[((group * G + out) * G + in) * 9 + tap];
                }
            bf16 low[LANES], high[LANES];
            store(low, part[0]);
            store(high, part[1]);
            std::uint32_t both[LANES];
            for (int lane = 0; lane < LANES; ++lane) both[lane] = low[lane] | std::uint32_t(high[lane]) << 16;
            packed[tap][j] = _mm512_loadu_si512(both);
        }
}

// One row's contribution to COLUMNS outputs. Source column p meets output a by column `tap` of the kernel where
// a * STRIDE + tap - 1 == p; for the gradient of the input (UP) where a == p * STRIDE + tap - 1.
template <int G, int STRIDE, bool UP, bool EDGE>
inline __attribute__((always_inline)) void add_row(Vec *sum, const bf16 *row, long first, long width, long channels,
                                                   const Pairs (*packed)[G / 2]) {
    constexpr int LEFT = UP && STRIDE == 2 ? 0 : -1;
    constexpr int RIGHT = UP ? (STRIDE == 2 ? COLUMNS / 2 + 1 : COLUMNS + 1) : (COLUMNS - 1) * STRIDE + 2;
#pragma GCC unroll 32
    for (int p = LEFT; p < RIGHT; ++p) {
        const long column = first + p;
        const Pixel x = EDGE && (column < 0 || column >= width) ? _mm256_setzero_si256() : pixel(row + column * channels);
#pragma GCC unroll 8
        for (int j = 0; j < G / 2; ++j) {
            const Pairs input = spread_pair<G>(x, j);
#pragma GCC unroll 3
            for (int tap = 0; tap < 3; ++tap) {
                const int a = UP ? p * STRIDE + tap - 1 : (p + 1 - tap + 2 * STRIDE) / STRIDE - 2;
                const bool meets = UP || a * STRIDE == p + 1 - tap;
                if (meets && a >= 0 && a < COLUMNS) {
                    Vec &to = sum[j % 2 * COLUMNS + a];
                    to = dot(to, input, packed[tap][j]);
                }
            }
        }
    }
}

// UP: from the gradient of the output to that of the input; `source` is the smaller image then.
template <int G, int STRIDE, bool UP>
void convolve(const bf16 *source, const float *weight, bf16 *target, long images, Image from, Image to) {
    const long channels = from.channels;
    std::vector<Pairs> all(channels / LANES * 9 * (G / 2));
    auto packed_at = [&](long channel) { return reinterpret_cast<Pairs(*)[G / 2]>(&all[channel / LANES * 9 * (G / 2)]); };
    for (long channel = 0; channel < channels; channel += LANES) pack<G>(weight, channel, UP, packed_at(channel));
    constexpr long REACH = UP ? COLUMNS / STRIDE + 1 : COLUMNS * STRIDE + 1;  // columns of the source that a tile may need
#pragma omp parallel for schedule(static) collapse(2)
    for (long image = 0; image < images; ++image)
        for (long channel = 0; channel < channels; channel += LANES) {
            const bf16 *x = source + image * from.size() + channel;
            bf16 *y = target + image * to.size() + channel;
            auto packed = packed_at(channel);
            for (long row = 0; row < to.height; ++row)
                for (long first = 0; first < to.width; first += COLUMNS) {
                    const long origin = UP ? first / STRIDE : first * STRIDE;
                    const bool edge = origin == 0 || origin + REACH > from.width;
                    Vec sum[2 * COLUMNS] = {};  // two chains an output: an addition need not wait for the last
                    for (int tap = 0; tap < 3; ++tap) {
                        const long scaled = UP ? row + 1 - tap : row * STRIDE + tap - 1;
                        if (scaled < 0 || (UP && scaled % STRIDE)) continue;
                        const long r = UP ? scaled / STRIDE : scaled;
                        if (r >= from.height) continue;
                        if (edge)
                            add_row<G, STRIDE, UP, true>(sum, x + from.at(r, 0), origin, from.width, channels, packed + tap * 3);
                        else
                            add_row<G, STRIDE, UP, false>(sum, x + from.at(r, 0), origin, from.width, channels, packed + tap * 3);
                    }
                    const long count = std::min<long>(COLUMNS, to.width - first);
#pragma GCC unroll 8
                    for (int a = 0; a < COLUMNS; ++a)
                        if (a < count) store(y + to.at(row, first + a), sum[a] + sum[COLUMNS + a]);
                }
        }
}

// Lane by lane the values of two pixels.
inline Pairs interleave(Pixel a, Pixel b) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
}

// On every lane of a group the pair of the group's channel i.
template <int G> inline Pairs spread_lane(Pairs x, int i) {
    IVec index;
    for (int lane = 0; lane < LANES; ++lane) index[lane] = lane / G * G + i;
    return _mm512_permutexvar_epi32((__m512i)index, x);
}

// The gradient of the weights. Pairs are two neighbouring pixels of the output here: total[tap][o] has on lane l the
// gradient of the weight by which input l enters output o of l's group.
template <int G, int STRIDE>
void add_image(const bf16 *x, const bf16 *gradient, Image from, Image to, Vec (*total)[G]) {
    constexpr int CHUNK = G < 8 ? G : 8;  // outputs whose sums stay in registers
    const Pixel zero = _mm256_setzero_si256();
    for (int tap_row = 0; tap_row < 3; ++tap_row)
        for (int o = 0; o < G; o += CHUNK) {
            Vec sum[3][CHUNK] = {};
            for (long row = 0; row < to.height; ++row) {
                const long r = row * STRIDE + tap_row - 1;
                if (r < 0 || r >= from.height) continue;
                const bf16 *source = x + from.at(r, 0);
                auto column = [&](long c) { return c < 0 || c >= from.width ? zero : pixel(source + c * from.channels); };
                for (long c = 0; c < to.width; c += 2) {
                    const bf16 *given = gradient + to.at(row, c);
                    const Pairs g = interleave(pixel(given), c + 1 < to.width ? pixel(given + to.channels) : zero);
                    Pairs input[3];
#pragma GCC unroll 3
                    for (int tap = 0; tap < 3; ++tap) {
                        const long left = c * STRIDE + tap - 1;
                        input[tap] = interleave(column(left), column(left + STRIDE));
                    }
#pragma GCC unroll 8
                    for (int k = 0; k < CHUNK; ++k) {
                        const Pairs output = spread_lane<G>(g, o + k);
#pragma GCC unroll 3
                        for (int tap = 0; tap < 3; ++tap) sum[tap][k] = dot(sum[tap][k], input[tap], output);
                    }
                }
            }
            for (int tap = 0; tap < 3; ++tap)
                for (int k = 0; k < CHUNK; ++k) total[tap_row * 3 + tap][o + k] += sum[tap][k];
        }
}

template <int G, int STRIDE>
void weight_gradient(const bf16 *x, const bf16 *gradient, float *dweight, long images, Image from, Image to) {
    const long channels = from.channels, tiles = channels / LANES;
    const long parts = std::min<long>(images, 16);  // a fixed number: the order of the sums is that of no thread
    std::vector<Vec> sums(parts * tiles * 9 * G);
#pragma omp parallel for schedule(static) collapse(2)
    for (long part = 0; part < parts; ++part)
        for (long tile = 0; tile < tiles; ++tile) {
            auto total = reinterpret_cast<Vec(*)[G]>(&sums[(part * tiles + tile) * 9 * G]);
            for (long image = part; image < images; image += parts)
                add_image<G, STRIDE>(x + image * from.size() + tile * LANES, gradient + image * to.size() + tile * LANES, from,
                                     to, total);
        }
    gather<G>(sums, parts, channels, dweight);
}

}  // namespace
}  // namespace bf16_form
#endif
