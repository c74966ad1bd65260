// Elements of any type as double, and back with one rounding.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <vector>

namespace standin {

enum Type { kF32 = 0, kF64 = 1, kF16 = 2, kBf16 = 14 };  // cudaDataType
inline size_t size_of(int type) { return type == kF64 ? 8 : type == kF32 ? 4 : 2; }
inline bool known(int type) { return type == kF32 || type == kF64 || type == kF16 || type == kBf16; }

inline double get(const void* p, int type, size_t i) {
    if (type == kF64) return static_cast<const double*>(p)[i];
    if (type == kF32) return static_cast<const float*>(p)[i];
    if (type == kF16) return static_cast<const _Float16*>(p)[i];
    const uint32_t w = uint32_t(static_cast<const uint16_t*>(p)[i]) << 16;
    float f;
    memcpy(&f, &w, 4);
    return f;
}

inline void put(void* p, int type, size_t i, double v) {
    if (type == kF64) static_cast<double*>(p)[i] = v;
    if (type == kF32) static_cast<float*>(p)[i] = float(v);
    if (type == kF16) static_cast<_Float16*>(p)[i] = _Float16(v);
    if (type != kBf16) return;
    const float f = float(v);
    uint32_t w;
    memcpy(&w, &f, 4);
    const bool nan = (w & 0x7fffffffu) > 0x7f800000u;
    static_cast<uint16_t*>(p)[i] = uint16_t(nan ? w >> 16 | 0x40 : (w + 0x7fff + (w >> 16 & 1)) >> 16);
}

// The ten bits of mantissa that TF32 keeps.
inline double tf32(double v) {
    float f = float(v);
    uint32_t w;
    memcpy(&w, &f, 4);
    if ((w & 0x7f800000u) != 0x7f800000u) w = (w + 0xfff + (w >> 13 & 1)) & ~0x1fffu;
    memcpy(&f, &w, 4);
    return f;
}

// c [n][m] = sum over k of a [k][m] and b [k][n]: column-major m x n, both operands by k.
inline std::vector<double> product(size_t m, size_t n, size_t k, const std::vector<double>& a, const std::vector<double>& b) {
    std::vector<double> c(m * n, 0.0);
    constexpr size_t kBlock = 512;
    for (size_t first = 0; first < m; first += kBlock) {
        const size_t last = first + kBlock < m ? first + kBlock : m;
        for (size_t j = 0; j < n; ++j) {
            double* out = &c[j * m];
            size_t l = 0;
            for (; l + 4 <= k; l += 4) {
                const double b0 = b[l * n + j], b1 = b[(l + 1) * n + j], b2 = b[(l + 2) * n + j], b3 = b[(l + 3) * n + j];
                const double *a0 = &a[l * m], *a1 = a0 + m, *a2 = a1 + m, *a3 = a2 + m;
                for (size_t i = first; i < last; ++i) out[i] += (a0[i] * b0 + a1[i] * b1) + (a2[i] * b2 + a3[i] * b3);
            }
            for (; l < k; ++l)
                for (size_t i = first; i < last; ++i) out[i] += a[l * m + i] * b[l * n + j];
        }
    }
    return c;
}

}  // namespace standin
