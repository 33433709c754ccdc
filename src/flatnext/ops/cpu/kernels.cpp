// Training kernels for the CPU that torch does not have: batch norm, residual addition and ReLU in one, and the grouped
// 3x3 convolution, both forward and backward, on channels-last tensors of bf16 or float32. All sums are in float32 or wider.
//
// A plain C interface: no header of torch, so that it compiles in seconds and outlives torch's versions. It is compiled on
// the machine it runs on, for that machine's vector unit; OpenMP's calls are left to be found in torch's own runtime, so
// that there is one pool of threads. Work is cut by rows and images and never by threads, so that the results have the
// same bits with any number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

using bf16 = std::uint16_t;
#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
constexpr int BYTES = LANES * 4;  // of the widest vector that the machine has: wider ones are worked on number by number
typedef float Vec __attribute__((vector_size(BYTES)));
typedef std::int32_t IVec __attribute__((vector_size(BYTES)));
typedef std::uint32_t UVec __attribute__((vector_size(BYTES)));
typedef std::uint16_t HVec __attribute__((vector_size(BYTES / 2)));
typedef float VecAnywhere __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef std::uint16_t HVecAnywhere __attribute__((vector_size(BYTES / 2), aligned(2), may_alias));

inline Vec load(const float *p) { return *reinterpret_cast<const VecAnywhere *>(p); }
inline Vec load(const bf16 *p) {
    return (Vec)(__builtin_convertvector((HVec) * reinterpret_cast<const HVecAnywhere *>(p), UVec) << 16);
}
inline void store(float *p, Vec v) { *reinterpret_cast<VecAnywhere *>(p) = v; }
inline void store(bf16 *p, Vec v) {
#ifdef __AVX512BF16__
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
    UVec bits = (UVec)v;
    UVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
    UVec quiet = (bits >> 16) | 0x40;
    *reinterpret_cast<HVecAnywhere *>(p) = __builtin_convertvector(v == v ? rounded : quiet, HVec);
#endif
}
// Written so that NaN stays NaN, as in torch.
inline Vec relu(Vec v) { return v < 0 ? Vec{} : v; }
inline Vec where_positive(Vec condition, Vec v) { return condition > 0 ? v : Vec{}; }

// ---- batch norm ------------------------------------------------------------------------------------------------------

constexpr int MOST = 1024 / LANES;  // vectors of channels that are worked on at once: their constants and sums stay in the L1 cache

// Rows in a block, by the size of the tensor alone.
inline long block_rows(long rows) { return std::clamp<long>(rows / 64, 32, 512); }

// Calls work(block, first row, end row, first channel, vectors) for all blocks of rows. Within a block rows are read from
// end to end, as they lie in memory: narrow tiles of channels have their sums in registers, but were slower by half.
template <class Work> void for_blocks(long rows, long channels, Work work) {
    const long size = block_rows(rows), blocks = (rows + size - 1) / size;
#pragma omp parallel for schedule(static)
    for (long block = 0; block < blocks; ++block)
        for (long channel = 0; channel < channels; channel += MOST * LANES)
            work(block, block * size, std::min(rows, (block + 1) * size), channel,
                 int(std::min<long>(MOST, (channels - channel) / LANES)));
}

// Two sums a channel, each of a block in float and over the blocks in double, in the order of the blocks.
struct Sums {
    long blocks, channels;
    std::vector<float> parts;
    std::vector<double> first, second;
    Sums(long rows, long c)
        : blocks((rows + block_rows(rows) - 1) / block_rows(rows)), channels(c), parts(blocks * c * 2), first(c), second(c) {}
    float *part(long block, long channel) { return &parts[(block * channels + channel) * 2]; }
    void keep(long block, long channel, const Vec *a, const Vec *b, int N) {
        for (int v = 0; v < N; ++v) {
            float *to = part(block, channel + v * LANES);
            store(to, a[v]);
            store(to + LANES, b[v]);
        }
    }
    void combine() {
#pragma omp parallel for schedule(static)
        for (long channel = 0; channel < channels; channel += LANES)
            for (long block = 0; block < blocks; ++block)
                for (int lane = 0; lane < LANES; ++lane) {
                    first[channel + lane] += part(block, channel)[lane];
                    second[channel + lane] += part(block, channel)[LANES + lane];
                }
    }
};

template <class T>
void norm_forward(const T *x, const T *residual, T *y, long rows, long channels, const float *weight, const float *bias,
                  float *running_mean, float *running_var, float momentum, float eps, float *mean, float *inverse_std,
                  bool with_relu) {
    Sums sums(rows, channels);
    // Sums of x minus its first row: a mean that is far from zero costs no digits of the variance.
    for_blocks(rows, channels, [&](long block, long begin, long end, long channel, int N) {
        Vec shift[MOST], sum[MOST] = {}, square[MOST] = {};
        for (int v = 0; v < N; ++v) shift[v] = load(x + channel + v * LANES);
        for (long row = begin; row < end; ++row)
            for (int v = 0; v < N; ++v) {
                const Vec value = load(x + row * channels + channel + v * LANES) - shift[v];
                sum[v] += value;
                square[v] += value * value;
            }
        sums.keep(block, channel, sum, square, N);
    });
    sums.combine();
    std::vector<float> scale(channels);
    for (long c = 0; c < channels; ++c) {
        float first;
        if constexpr (sizeof(T) == 4)
            first = x[c];
        else {
            const std::uint32_t bits = std::uint32_t(x[c]) << 16;
            std::memcpy(&first, &bits, 4);
        }
        const double offset = sums.first[c] / rows;
        const double variance = std::max(sums.second[c] / rows - offset * offset, 0.0);
        mean[c] = float(first + offset);
        inverse_std[c] = float(1 / std::sqrt(variance + eps));
        if (!(sums.second[c] == sums.second[c])) mean[c] = inverse_std[c] = NAN;
        scale[c] = weight[c] * inverse_std[c];
        const double unbiased = sums.second[c] == sums.second[c] ? variance * rows / std::max<long>(rows - 1, 1) : NAN;
        running_mean[c] += momentum * (mean[c] - running_mean[c]);
        running_var[c] += momentum * (float(unbiased) - running_var[c]);
    }
    for_blocks(rows, channels, [&](long, long begin, long end, long channel, int N) {
        Vec m[MOST], s[MOST], b[MOST];
        for (int v = 0; v < N; ++v) {
            m[v] = load(mean + channel + v * LANES);
            s[v] = load(&scale[channel + v * LANES]);
            b[v] = load(bias + channel + v * LANES);
        }
        for (long row = begin; row < end; ++row)
            for (int v = 0; v < N; ++v) {
                const long at = row * channels + channel + v * LANES;
                Vec value = (load(x + at) - m[v]) * s[v] + b[v];
                if (residual) value += load(residual + at);
                store(y + at, with_relu ? relu(value) : value);
            }
    });
}

// `output` is given with a residual only: what ReLU let through is then seen there. `masked` receives the gradient of
// the residual. Without a residual what ReLU let through is worked out from x again, which costs no memory traffic.
template <class T>
void norm_backward(const T *gradient, const T *x, const T *output, T *masked, T *dx, long rows, long channels,
                   const float *weight, const float *bias, const float *mean, const float *inverse_std, float *dweight,
                   float *dbias, bool with_relu) {
    Sums sums(rows, channels);
    for_blocks(rows, channels, [&](long block, long begin, long end, long channel, int N) {
        Vec m[MOST], s[MOST], b[MOST], sum[MOST] = {}, product[MOST] = {};
        for (int v = 0; v < N; ++v) {
            m[v] = load(mean + channel + v * LANES);
            s[v] = load(weight + channel + v * LANES) * load(inverse_std + channel + v * LANES);
            b[v] = load(bias + channel + v * LANES);
        }
        for (long row = begin; row < end; ++row)
            for (int v = 0; v < N; ++v) {
                const long at = row * channels + channel + v * LANES;
                const Vec centred = load(x + at) - m[v];
                Vec g = load(gradient + at);
                if (output && with_relu) g = where_positive(load(output + at), g);
                if (output) store(masked + at, g);
                if (!output && with_relu) g = where_positive(centred * s[v] + b[v], g);
                sum[v] += g;
                product[v] += g * centred;
            }
        sums.keep(block, channel, sum, product, N);
    });
    sums.combine();
    std::vector<float> slope(channels), constant(channels);
    for (long c = 0; c < channels; ++c) {
        const double inverse = inverse_std[c], scale = weight[c] * inverse;
        dbias[c] = float(sums.first[c]);
        dweight[c] = float(sums.second[c] * inverse);
        slope[c] = float(-scale * inverse * inverse * sums.second[c] / rows);
        constant[c] = float(-scale * sums.first[c] / rows);
    }
    const T *source = output ? masked : gradient;
    for_blocks(rows, channels, [&](long, long begin, long end, long channel, int N) {
        Vec m[MOST], s[MOST], b[MOST], a[MOST], k[MOST];
        for (int v = 0; v < N; ++v) {
            m[v] = load(mean + channel + v * LANES);
            s[v] = load(weight + channel + v * LANES) * load(inverse_std + channel + v * LANES);
            b[v] = load(bias + channel + v * LANES);
            a[v] = load(&slope[channel + v * LANES]);
            k[v] = load(&constant[channel + v * LANES]);
        }
        for (long row = begin; row < end; ++row)
            for (int v = 0; v < N; ++v) {
                const long at = row * channels + channel + v * LANES;
                const Vec centred = load(x + at) - m[v];
                Vec g = load(source + at);
                if (!output && with_relu) g = where_positive(centred * s[v] + b[v], g);
                store(dx + at, g * s[v] + centred * a[v] + k[v]);
            }
    });
}

// ---- grouped 3x3 convolution, padding 1, of bf16 ----------------------------------------------------------------------
// A vector holds 16 neighbouring channels, that is 16 / G groups of G. The instruction multiplies pairs of bf16 and adds
// both products to a float32 lane.

#ifdef __AVX512BF16__

typedef __m256i Pixel;  // 16 channels
typedef __m512i Pairs;  // 16 lanes of two bf16

inline Vec dot(Vec sum, Pairs a, Pairs b) { return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
inline Pixel pixel(const bf16 *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }

struct Image {
    long height, width, channels;
    long at(long row, long column) const { return (row * width + column) * channels; }
    long size() const { return height * width * channels; }
};

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

constexpr int COLUMNS = 8;  // outputs of a row that are worked out together, in registers

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
    for (long k = 0; k < channels * G * 9; ++k) {
        const long out = k / (G * 9), in = out / G * G + k / 9 % G, tap = k % 9;
        float sum = 0;
        for (long part = 0; part < parts; ++part)
            sum += sums[((part * tiles + in / LANES) * 9 + tap) * G + out % G][in % LANES];
        dweight[k] = sum;
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

#endif

}  // namespace

extern "C" {

void batch_norm_forward(int narrow, const void *x, const void *residual, void *y, long rows, long channels,
                        const float *weight, const float *bias, float *running_mean, float *running_var, float momentum,
                        float eps, float *mean, float *inverse_std, int with_relu) {
    auto run = [&](auto type) {
        using T = decltype(type);
        norm_forward<T>((const T *)x, (const T *)residual, (T *)y, rows, channels, weight, bias, running_mean, running_var,
                        momentum, eps, mean, inverse_std, with_relu);
    };
    narrow ? run(bf16()) : run(float());
}

void batch_norm_backward(int narrow, const void *gradient, const void *x, const void *output, void *masked, void *dx,
                         long rows, long channels, const float *weight, const float *bias, const float *mean,
                         const float *inverse_std, float *dweight, float *dbias, int with_relu) {
    auto run = [&](auto type) {
        using T = decltype(type);
        norm_backward<T>((const T *)gradient, (const T *)x, (const T *)output, (T *)masked, (T *)dx, rows, channels, weight,
                         bias, mean, inverse_std, dweight, dbias, with_relu);
    };
    narrow ? run(bf16()) : run(float());
}

// Whether this machine has the two functions below.
int has_grouped_convolution() {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}

#ifdef __AVX512BF16__
// Forward, or with `up` the gradient of the input: heights and widths are those of `x` and of `y` as given. 1 if done.
int grouped_convolution(const void *x, const float *weight, void *y, long images, long height, long width, long to_height,
                        long to_width, long channels, long group, long stride, int up) {
    const Image from{height, width, channels}, to{to_height, to_width, channels};
    return with_shape(group, stride, [&](auto g, auto s) {
        if (up)
            convolve<g(), s(), true>((const bf16 *)x, weight, (bf16 *)y, images, from, to);
        else
            convolve<g(), s(), false>((const bf16 *)x, weight, (bf16 *)y, images, from, to);
    });
}

int grouped_weight_gradient(const void *x, const void *gradient, float *dweight, long images, long height, long width,
                            long to_height, long to_width, long channels, long group, long stride) {
    const Image from{height, width, channels}, to{to_height, to_width, channels};
    return with_shape(group, stride, [&](auto g, auto s) {
        weight_gradient<g(), s()>((const bf16 *)x, (const bf16 *)gradient, dweight, images, from, to);
    });
}
#endif
}
