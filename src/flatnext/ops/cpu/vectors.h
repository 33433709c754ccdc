// Vectors of float32 as wide as the machine has them, loaded from and stored to float32 or bf16.

#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#include <vector>

// The forms of the convolutions that this machine has. For which shapes they are faster than oneDNN's: `FASTER` in grouped.py.
#ifdef __AVX512BF16__
#define BF16_FORM
#endif
#if defined __AVX2__ && defined __FMA__
#define FLOAT_FORM
#ifndef __AVX512F__
#define POINTWISE_FORM
#endif
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
inline Vec middle(Vec a, Vec b, Vec c) {
    const Vec low = a < b ? a : b, high = a < b ? b : a, upper = high < c ? high : c;
    return low < upper ? upper : low;
}
inline Vec everywhere(float number) { return number - Vec{}; }
// Written so that NaN stays NaN, as in torch.
inline Vec relu(Vec v) { return v < 0 ? Vec{} : v; }
inline Vec where_positive(Vec condition, Vec v) { return condition > 0 ? v : Vec{}; }

}  // namespace
