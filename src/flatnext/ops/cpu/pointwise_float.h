// The 1x1 convolution of float32, which is a product of matrices, for CPUs with AVX2 and no AVX-512.
//
// A tile of the output, ROWS x PANEL numbers, stays in registers while one factor is spread number by number and the other
// is read by vectors, from panels of PANEL columns with nothing between them. A panel and a block of the other factor stay
// in the caches (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008). What comes next is
// prefetched meanwhile: without this a large image's activations come from the memory too late.

#pragma once
#include <memory>

#include "vectors.h"

#ifdef POINTWISE_FORM
extern "C" int omp_get_max_threads(void);  // its header is not with every compiler

namespace pointwise_float {
namespace {

constexpr int ROWS = 6, PANEL = 2 * LANES;  // of a tile: 12 vectors of sums, 2 of a panel, 1 spread
constexpr long DEPTH = 512, BLOCK = 96;     // most products in a sum before it is stored; most rows in a block
constexpr long CHUNK = 256;                 // pixels whose products a tile of the weight's gradient sums before it is stored

using Buffer = std::unique_ptr<float[]>;  // std::vector would write zeros first

// Prefetches memory that is needed next, from its beginning to its end in so many steps.
struct Ahead {
    const char *at, *end;
    long step;
    Ahead(const float *begin, long count, long steps)
        : at((const char *)begin), end(at + std::max(count, 0L) * 4), step(((end - at) / 64 + steps) / steps * 64) {}
    void go_on() {
        for (const char *stop = std::min(end, at + step); at < stop; at += 64) __builtin_prefetch(at, 0, 2);
    }
};

// What is done with a tile: added to what lies there; a bias added, one number a column (or null); ReLU.
struct Finish {
    bool add;
    const float *bias;
    bool with_relu;
};

// y[r][c] = sum over k of a[r * row_step + k * step] * panel[k][c]
template <int R>
inline __attribute__((always_inline)) void tile(const float *a, long row_step, long step, const float *panel, long depth,
                                                float *y, long y_step, Finish finish) {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) __builtin_prefetch(y + r * y_step, 1, 3);
    Vec sum[R][2] = {};
    for (long k = 0; k < depth; ++k, a += step, panel += PANEL) {
        const Vec left = load(panel), right = load(panel + LANES);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            const Vec number = everywhere(a[r * row_step]);
            sum[r][0] += number * left;
            sum[r][1] += number * right;
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            float *to = y + r * y_step + half * LANES;
            Vec value = sum[r][half];
            if (finish.add) value += load(to);
            if (finish.bias) value += load(finish.bias + half * LANES);
            store(to, finish.with_relu ? relu(value) : value);
        }
}

__attribute__((noinline)) void tile_of(long rows, const float *a, long row_step, long step, const float *panel, long depth,
                                       float *y, long y_step, Finish finish) {
    switch (rows) {
    case 6: return tile<6>(a, row_step, step, panel, depth, y, y_step, finish);
    case 5: return tile<5>(a, row_step, step, panel, depth, y, y_step, finish);
    case 4: return tile<4>(a, row_step, step, panel, depth, y, y_step, finish);
    case 3: return tile<3>(a, row_step, step, panel, depth, y, y_step, finish);
    case 2: return tile<2>(a, row_step, step, panel, depth, y, y_step, finish);
    case 1: return tile<1>(a, row_step, step, panel, depth, y, y_step, finish);
    }
}

inline __attribute__((always_inline)) void transpose(Vec (&v)[8]) {
    Vec pairs[8], fours[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = (Vec)_mm256_unpacklo_ps(v[i], v[i + 1]);
        pairs[i + 1] = (Vec)_mm256_unpackhi_ps(v[i], v[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
            fours[i + 2 * j] = (Vec)_mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
            fours[i + 2 * j + 1] = (Vec)_mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xee);
        }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        v[i] = (Vec)_mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
        v[i + 4] = (Vec)_mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
    }
}

// The panels of a weight: for each stretch of at most DEPTH of the depth, panel after panel. Column c's number k lies at
// weight[c * depth + k], or with `up` at weight[k * columns + c].
void pack(const float *weight, float *packed, long depth, long columns, bool up) {
#pragma omp parallel for schedule(static)
    for (long c = 0; c < columns; c += PANEL)
        for (long begin = 0; begin < depth; begin += DEPTH) {
            const long count = std::min(DEPTH, depth - begin);
            float *panel = packed + begin * columns + c * count;
            for (long k = 0; k < count; k += up ? 1 : 8)
                if (up)
                    std::memcpy(panel + k * PANEL, weight + (begin + k) * columns + c, PANEL * sizeof(float));
                else
                    for (int half = 0; half < PANEL; half += 8) {
                        Vec v[8];
                        for (int i = 0; i < 8; ++i) v[i] = load(weight + (c + half + i) * depth + begin + k);
                        transpose(v);
                        for (int i = 0; i < 8; ++i) store(panel + (k + i) * PANEL + half, v[i]);
                    }
        }
}

// y (rows, columns) from x (rows, depth) and a packed weight.
void multiply(const float *x, const float *packed, float *y, long rows, long depth, long columns, Finish finish) {
    // Each number is worked out alone, so that how the rows and columns are cut changes no bit.
    const long blocks = (rows + BLOCK - 1) / BLOCK, parts = (4 * omp_get_max_threads() + blocks - 1) / blocks;
    const long width = std::max(columns / PANEL / parts, 1L) * PANEL;
#pragma omp parallel for schedule(static) collapse(2)
    for (long first = 0; first < rows; first += BLOCK)
        for (long left = 0; left < columns; left += width) {
            const long right = std::min(left + width, columns), end = std::min(first + BLOCK, rows);
            const long tiles = (end - first + ROWS - 1) / ROWS * ((right - left) / PANEL) * ((depth + DEPTH - 1) / DEPTH);
            Ahead ahead(x + end * depth, (std::min(end + BLOCK, rows) - end) * depth, tiles);
            for (long begin = 0; begin < depth; begin += DEPTH) {
                const long length = std::min(DEPTH, depth - begin);
                const bool is_last = begin + length == depth;
                for (long c = left; c < right; c += PANEL) {
                    const Finish now{begin > 0 || finish.add, is_last && finish.bias ? finish.bias + c : nullptr,
                                     is_last && finish.with_relu};
                    for (long r = first; r < end; r += ROWS) {
                        ahead.go_on();
                        tile_of(std::min<long>(ROWS, end - r), x + r * depth + begin, depth, 1,
                                packed + begin * columns + c * length, length, y + r * columns + c, columns, now);
                    }
                }
            }
        }
}

// The columns of a matrix side by side: for each WIDTH of them, row after row.
template <int WIDTH> void pack_columns(const float *from, long step, long rows, long columns, float *to) {
    for (long first = 0; first < rows; first += 8)  // a few rows at a time: the memory is read as it lies
        for (long c = 0; c < columns; c += WIDTH) {
            const long width = std::min<long>(WIDTH, columns - c), end = std::min(first + 8, rows);
            for (long r = first; r < end; ++r)
                if (width == WIDTH)
                    std::memcpy(to + c * rows + r * WIDTH, from + r * step + c, WIDTH * sizeof(float));
                else
                    std::memcpy(to + c * rows + r * WIDTH, from + r * step + c, width * sizeof(float));
        }
}

// A part of the weight's gradient, from some of the rows: outputs [0, out) and inputs [0, in) of what the pointers point to.
void add_products(const float *gradient, long all_out, long out, const float *x, long all_in, long in, long rows, float *dweight,
                  float *outputs, float *inputs) {
    for (long first = 0; first < rows; first += CHUNK) {
        const long count = std::min(CHUNK, rows - first), next = std::min(CHUNK, rows - first - count);
        pack_columns<ROWS>(gradient + first * all_out, all_out, count, out, outputs);
        pack_columns<PANEL>(x + first * all_in, all_in, count, in, inputs);
        const long tiles = (out + ROWS - 1) / ROWS * (in / PANEL);
        Ahead gradients(gradient + (first + count) * all_out, next * all_out, tiles), images(x + (first + count) * all_in, next * all_in, tiles);
        for (long o = 0; o < out; o += BLOCK)
            for (long i = 0; i < in; i += PANEL)
                for (long r = o; r < std::min(out, o + BLOCK); r += ROWS) {
                    gradients.go_on();
                    images.go_on();
                    tile_of(std::min<long>(ROWS, out - r), outputs + r * count, 1, ROWS, inputs + i * count, count,
                            dweight + r * all_in + i, all_in, {first > 0, nullptr, false});
                }
    }
}

// dweight (out, in) from x (rows, in) and the gradient (rows, out).
void weight_gradient(const float *x, const float *gradient, float *dweight, long rows, long in, long out) {
    // Parts of the rows, by their number alone, so that the order of the sums is that of no thread; and for more threads
    // parts of the inputs, which changes no bit.
    const long parts = std::clamp(rows / 4096, 1L, 16L), size = (rows + parts - 1) / parts;
    const long cuts = std::clamp(omp_get_max_threads() / parts, 1L, std::max(in / 64, 1L));
    const long width = (in / PANEL + cuts - 1) / cuts * PANEL;
    Buffer sums(parts > 1 ? new float[parts * in * out] : nullptr);
#pragma omp parallel
    {
        const Buffer outputs(new float[CHUNK * (out + ROWS)]), inputs(new float[CHUNK * width]);
#pragma omp for schedule(static) collapse(2)
        for (long part = 0; part < parts; ++part)
            for (long i = 0; i < in; i += width) {
                const long first = part * size;
                float *to = parts > 1 ? &sums[part * in * out] : dweight;
                add_products(gradient + first * out, out, out, x + first * in + i, in, std::min(width, in - i),
                             std::min(size, rows - first), to + i, outputs.get(), inputs.get());
            }
        if (parts > 1)
#pragma omp for schedule(static)
            for (long at = 0; at < in * out; at += LANES) {
                Vec sum = {};
                for (long part = 0; part < parts; ++part) sum += load(&sums[part * in * out + at]);
                store(dweight + at, sum);
            }
    }
}

}  // namespace
}  // namespace pointwise_float
#endif
