// Batch norm with what follows it, a residual addition and ReLU, forward and backward.

#pragma once
#include "vectors.h"

namespace {

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

// Calls work(at, v) for all rows and vectors of a block, `at` being where the vector begins. `work` takes copies of the
// pointers: what a lambda has by reference is loaded anew after every store, which took half as long again.
template <class Work>
inline void for_vectors(long begin, long end, long channels, long channel, int N, const Work work) {
    for (long row = begin; row < end; ++row)
        for (int v = 0; v < N; ++v) work(row * channels + channel + v * LANES, v);
}

// Two sums a channel, each of a block in float and over the blocks in double, in the order of the blocks. Where they are
// sums of values and of their squares, each block may have an origin that was subtracted: the sums over the blocks are
// about the origin of the first.
struct Sums {
    long rows, size, blocks, channels;
    std::vector<float> parts;
    std::vector<double> first, second;
    Sums(long r, long c)
        : rows(r), size(block_rows(r)), blocks((r + size - 1) / size), channels(c), parts(blocks * c * 3), first(c),
          second(c) {}
    float *part(long block, long channel) { return &parts[(block * channels + channel) * 3]; }
    float origin(long channel) { return part(0, channel / LANES * LANES)[2 * LANES + channel % LANES]; }
    void keep(long block, long channel, const Vec *a, const Vec *b, int N, const Vec *origins = nullptr) {
        for (int v = 0; v < N; ++v) {
            float *to = part(block, channel + v * LANES);
            store(to, a[v]);
            store(to + LANES, b[v]);
            store(to + 2 * LANES, origins ? origins[v] : Vec{});
        }
    }
    void combine() {
#pragma omp parallel for schedule(static)
        for (long channel = 0; channel < channels; channel += LANES)
            for (long block = 0; block < blocks; ++block)
                for (int lane = 0; lane < LANES; ++lane) {
                    const float *from = part(block, channel) + lane;
                    const double a = from[0], b = from[LANES], count = std::min(size, rows - block * size);
                    const double away = double(from[2 * LANES]) - part(0, channel)[2 * LANES + lane];
                    first[channel + lane] += a + count * away;
                    second[channel + lane] += away == 0 ? b : b + away * (2 * a + count * away);  // 0 times infinity is NaN
                }
    }
};

template <class T>
void norm_forward(const T *x, const T *residual, T *y, long rows, long channels, const float *weight, const float *bias,
                  float *running_mean, float *running_var, float momentum, float eps, float *mean, float *inverse_std,
                  bool with_relu) {
    Sums sums(rows, channels);
    // The origin is the middle one of three values: neither a mean far from zero nor a row far from the others costs digits
    // of the variance.
    for_blocks(rows, channels, [&](long block, long begin, long end, long channel, int N) {
        Vec shift[MOST], sum[MOST] = {}, square[MOST] = {};
        for (int v = 0; v < N; ++v) {
            const auto at = [=](long row) { return load(x + std::min(row, end - 1) * channels + channel + v * LANES); };
            shift[v] = middle(at(begin), at(begin + 1), at(begin + 2));
        }
        for_vectors(begin, end, channels, channel, N, [=, &shift, &sum, &square](long at, int v) {
            const Vec value = load(x + at) - shift[v];
            sum[v] += value;
            square[v] += value * value;
        });
        sums.keep(block, channel, sum, square, N, shift);
    });
    sums.combine();
    std::vector<float> scale(channels);
    for (long c = 0; c < channels; ++c) {
        const double offset = sums.first[c] / rows;
        const double variance = std::max(sums.second[c] / rows - offset * offset, 0.0);
        mean[c] = float(sums.origin(c) + offset);
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
        for_vectors(begin, end, channels, channel, N, [=, &m, &s, &b](long at, int v) {
            Vec value = (load(x + at) - m[v]) * s[v] + b[v];
            if (residual) value += load(residual + at);
            store(y + at, with_relu ? relu(value) : value);
        });
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
        for_vectors(begin, end, channels, channel, N, [=, &m, &s, &b, &sum, &product](long at, int v) {
            const Vec centred = load(x + at) - m[v];
            Vec g = load(gradient + at);
            if (output && with_relu) g = where_positive(load(output + at), g);
            if (output) store(masked + at, g);
            if (!output && with_relu) g = where_positive(centred * s[v] + b[v], g);
            sum[v] += g;
            product[v] += g * centred;
        });
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
        for_vectors(begin, end, channels, channel, N, [=, &m, &s, &b, &a, &k](long at, int v) {
            const Vec centred = load(x + at) - m[v];
            Vec g = load(source + at);
            if (!output && with_relu) g = where_positive(centred * s[v] + b[v], g);
            store(dx + at, g * s[v] + centred * a[v] + k[v]);
        });
    });
}

}  // namespace
