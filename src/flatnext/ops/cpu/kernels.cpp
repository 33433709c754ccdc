// Kernels for the CPU, forward and backward, on channels-last tensors of bf16 or float32: batch norm, residual addition and
// ReLU in one, the grouped 3x3 convolution, and the 1x1 convolution (float32 alone). All sums are in float32 or wider.
//
// A plain C interface: no header of torch, so that it compiles in seconds and outlives torch's versions. It is compiled on
// the machine it runs on, for that machine's vector unit; OpenMP's calls are left to be found in torch's own runtime, so
// that there is one pool of threads. Work is cut by rows and images and never by threads, so that the results have the
// same bits with any number of threads.

#include "batch_norm.h"
#include "grouped_bf16.h"
#include "grouped_float.h"
#include "pointwise_float.h"

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

// Numbers in a vector of this machine's grouped convolution of bf16 (`narrow`) or float32; 0 where it has none.
int grouped_lanes(int narrow) {
#ifdef BF16_FORM
    if (narrow) return LANES;
#endif
#ifdef FLOAT_FORM
    if (!narrow) return LANES;
#endif
    return 0;
}

// Whether this machine has the 1x1 convolution.
int has_pointwise() {
#ifdef POINTWISE_FORM
    return 1;
#else
    return 0;
#endif
}

// Forward, or with `up` the gradient of the input: heights and widths are those of `x` and of `y` as given. 1 if done.
// `bias` (or null) and ReLU are for inference, in float32 alone.
int grouped_convolution(int narrow, const void *x, const float *weight, const float *bias, void *y, long images,
                        long height, long width, long to_height, long to_width, long channels, long group, long stride,
                        int up, int with_relu) {
    if (narrow && (bias || with_relu)) return 0;
    const Image from{height, width, channels}, to{to_height, to_width, channels};
    return with_shape(group, stride, [&](auto g, auto s) {
#ifdef BF16_FORM
        if (narrow)
            up ? bf16_form::convolve<g(), s(), true>((const bf16 *)x, weight, (bf16 *)y, images, from, to)
               : bf16_form::convolve<g(), s(), false>((const bf16 *)x, weight, (bf16 *)y, images, from, to);
#endif
#ifdef FLOAT_FORM
        if (!narrow)
            up ? float_form::convolve<g(), s(), true>((const float *)x, weight, bias, (float *)y, images, from, to, with_relu)
               : float_form::convolve<g(), s(), false>((const float *)x, weight, bias, (float *)y, images, from, to, with_relu);
#endif
    });
}

int grouped_weight_gradient(int narrow, const void *x, const void *gradient, float *dweight, long images, long height,
                            long width, long to_height, long to_width, long channels, long group, long stride) {
    const Image from{height, width, channels}, to{to_height, to_width, channels};
    return with_shape(group, stride, [&](auto g, auto s) {
#ifdef BF16_FORM
        if (narrow)
            bf16_form::weight_gradient<g(), s()>((const bf16 *)x, (const bf16 *)gradient, dweight, images, from, to);
#endif
#ifdef FLOAT_FORM
        if (!narrow)
            float_form::weight_gradient<g(), s()>((const float *)x, (const float *)gradient, dweight, images, from, to);
#endif
    });
}

// A weight (columns, depth), or with `up`, for the gradient of the input, (depth, columns), as `pointwise_convolution` takes
// it: as many numbers in another order. 1 if done.
int pointwise_pack(const float *weight, float *packed, long depth, long columns, int up) {
#ifdef POINTWISE_FORM
    pointwise_float::pack(weight, packed, depth, columns, up);
    return 1;
#else
    return 0;
#endif
}

// y (rows, columns) = x (rows, depth) times a packed weight. It is added to what `y` has (`add`); a bias (or null) and ReLU
// follow. 1 if done.
int pointwise_convolution(const float *x, const float *packed, const float *bias, float *y, long rows, long depth,
                          long columns, int add, int with_relu) {
#ifdef POINTWISE_FORM
    pointwise_float::multiply(x, packed, y, rows, depth, columns, {bool(add), bias, bool(with_relu)});
    return 1;
#else
    return 0;
#endif
}

// dweight (out, in) from x (rows, in) and the gradient of the output (rows, out). 1 if done.
int pointwise_weight_gradient(const float *x, const float *gradient, float *dweight, long rows, long in, long out) {
#ifdef POINTWISE_FORM
    pointwise_float::weight_gradient(x, gradient, dweight, rows, in, out);
    return 1;
#else
    return 0;
#endif
}
}
