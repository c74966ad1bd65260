// Sums of exponentials, plain or with a running maximum, as the statistics kernels keep and merge them.
#pragma once

#include "ptx.cuh"

struct Sum {
    float sum;
    static __device__ Sum nothing() { return {0.0f}; }
    __device__ Sum exchange(int lanes) const { return {shuffle_xor(sum, lanes)}; }
};
__device__ __forceinline__ Sum combine(Sum a, Sum b) { return {a.sum + b.sum}; }

// sum * 2^max. Starts at a finite maximum, so that 2^(max - max) stays defined when nothing was added.
constexpr float kNothing = -1e30f;
struct LogSum {
    float max, sum;
    static __device__ LogSum nothing() { return {kNothing, 0.0f}; }
    __device__ LogSum exchange(int lanes) const { return {shuffle_xor(max, lanes), shuffle_xor(sum, lanes)}; }
};
__device__ __forceinline__ LogSum combine(LogSum a, LogSum b) {
    const float m = fmaxf(a.max, b.max);
    return {m, a.sum * exp2_approx(a.max - m) + b.sum * exp2_approx(b.max - m)};
}

// Partial result i; a plain sum has no maximum to write.
__device__ __forceinline__ void write_partial(float* sum, float*, int64_t i, Sum v) { sum[i] = v.sum; }
__device__ __forceinline__ void write_partial(float* sum, float* max, int64_t i, LogSum v) {
    sum[i] = v.sum;
    max[i] = v.max;
}
