// Finding a row's masked entries.
#pragma once

#include "params.cuh"
#include "ptx.cuh"

// Where the first of the ascending columns[begin .. end) lies that is at least `column`; `end` if there is none.
__device__ __forceinline__ int64_t first_masked(const int32_t* columns, int64_t begin, int64_t end, int column) {
    while (begin < end) {
        const int64_t middle = (begin + end) / 2;
        if (columns[middle] < column) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return begin;
}
