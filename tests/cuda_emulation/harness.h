// The kernels compiled for the host, small problems for them, and comparison with float64.
#pragma once

#include "emu/kernels.h"

#include <stdio.h>
#include <stdlib.h>

#include <random>
#include <string>
#include <vector>

using std::string;
using std::vector;

inline int failures = 0, checks = 0;
inline bool backwards = false;
inline bool first_ends = false;  // whether the first failure ends the program
inline string context;

// |got - want| <= absolute + relative |want|, and no NaN.
inline void expect(double got, double want, double relative, double absolute, const string& what) {
    ++checks;
    const double error = std::fabs(got - want);
    if (error <= absolute + relative * std::fabs(want) || got == want) return;
    if (++failures <= 10) fprintf(stderr, "%s: %s: got %.9g, want %.9g\n", context.c_str(), what.c_str(), got, want);
    if (first_ends) exit(1);
}
inline void expect_equal(long got, long want, const string& what) { expect(double(got), double(want), 0, 0, what); }

inline std::mt19937& rng() {
    static std::mt19937 r(7);
    return r;
}
inline double uniform(double low, double high) { return std::uniform_real_distribution<>(low, high)(rng()); }
inline double normal() { return std::normal_distribution<>()(rng()); }

template <class T> vector<T> poisoned(size_t n) {
    vector<T> v(n);
    memset(v.data(), 0xff, n * sizeof(T));
    return v;
}

enum class Mode { kHalf, kBf16, kSplit };
inline const char* name(Mode m) { return m == Mode::kHalf ? "f16" : m == Mode::kBf16 ? "bf16" : "split"; }

struct Matrix {
    int rows = 0, cols = 0;
    vector<double> v;
    Matrix() = default;
    Matrix(int r, int c) : rows(r), cols(c), v(size_t(r) * c) {}
    double& at(int i, int j) { return v[size_t(i) * cols + j]; }
    double at(int i, int j) const { return v[size_t(i) * cols + j]; }
};

inline Matrix random_matrix(int rows, int cols) {
    Matrix m(rows, cols);
    for (double& x : m.v) x = normal();
    return m;
}
inline void normalise(Matrix& m) {
    for (int i = 0; i < m.rows; ++i) {
        double s = 0;
        for (int j = 0; j < m.cols; ++j) s += m.at(i, j) * m.at(i, j);
        for (int j = 0; j < m.cols; ++j) m.at(i, j) /= std::sqrt(s);
    }
}

inline double stored(Mode mode, uint16_t bits) { return mode == Mode::kBf16 ? emu::bf16_value(bits) : emu::half_value(bits); }
inline uint16_t store(Mode mode, double v) { return mode == Mode::kBf16 ? emu::bf16_bits(float(v)) : emu::half_bits(float(v)); }

struct Positives {
    vector<int64_t> offsets;
    vector<int32_t> columns;
    bool contains(int i, int j) const {
        return std::binary_search(columns.begin() + offsets[i], columns.begin() + offsets[i + 1], j);
    }
    int count(int i) const { return int(offsets[i + 1] - offsets[i]); }
    Csr view() const { return {offsets.data(), columns.data()}; }
    Positives transposed(int cols) const {
        vector<vector<int32_t>> lists(cols);
        for (int i = 0; i + 1 < int(offsets.size()); ++i)
            for (int64_t p = offsets[i]; p < offsets[i + 1]; ++p) lists[columns[p]].push_back(i);
        return from(lists);
    }
    static Positives from(const vector<vector<int32_t>>& lists) {
        Positives p;
        p.offsets.push_back(0);
        for (const auto& l : lists) {
            p.columns.insert(p.columns.end(), l.begin(), l.end());
            p.offsets.push_back(int64_t(p.columns.size()));
        }
        return p;
    }
};

// Embeddings as the device holds them, and the similarities these stand for in float64.
struct Problem {
    Mode mode;
    int nx, ny, depth;
    vector<uint16_t> zx, zy;
    Matrix s;
    Positives positives, transposed;

    int ld() const { return mode == Mode::kSplit ? 2 * depth : depth; }
    Embeddings view(bool resident) const {
        return {zx.data(), zy.data(), depth, ld(), mode == Mode::kSplit ? 3 : 1, resident};
    }
    Embeddings view_transposed(bool resident) const {
        return {zy.data(), zx.data(), depth, ld(), mode == Mode::kSplit ? 3 : 1, resident};
    }
};

inline vector<uint16_t> embed(Mode mode, const Matrix& z, int depth) {
    const int ld = mode == Mode::kSplit ? 2 * depth : depth;
    vector<uint16_t> out(size_t(z.rows) * ld, 0);
    for (int i = 0; i < z.rows; ++i)
        for (int c = 0; c < z.cols; ++c) {
            const uint16_t high = store(mode, z.at(i, c));
            out[size_t(i) * ld + c] = high;
            if (mode == Mode::kSplit) out[size_t(i) * ld + depth + c] = store(mode, z.at(i, c) - stored(mode, high));
        }
    return out;
}

enum class Relation { kNone, kDiagonal, kMany };

inline Problem make_problem(Mode mode, int nx, int ny, int r, Relation relation) {
    Problem p;
    p.mode = mode;
    p.nx = nx;
    p.ny = ny;
    p.depth = (r + 15) / 16 * 16;
    Matrix x = random_matrix(nx, r), y = random_matrix(ny, r);
    for (int i = 0; i < std::min(nx, ny); ++i)  // related pairs, so that similarities reach the whole range
        for (int c = 0; c < r; ++c) y.at(i, c) = (i % 3) * 0.7 * x.at(i, c) + 0.5 * y.at(i, c);
    if (ny > 4)
        for (int c = 0; c < r; ++c) y.at(4, c) = y.at(1, c);  // an exact tie
    normalise(x);
    normalise(y);
    p.zx = embed(mode, x, p.depth);
    p.zy = embed(mode, y, p.depth);
    p.s = Matrix(nx, ny);
    for (int i = 0; i < nx; ++i)
        for (int j = 0; j < ny; ++j)
            for (int c = 0; c < p.depth; ++c) {
                auto get = [&](const vector<uint16_t>& z, int row, int half) {
                    return stored(mode, z[size_t(row) * p.ld() + half * p.depth + c]);
                };
                double v = get(p.zx, i, 0) * get(p.zy, j, 0);
                if (mode == Mode::kSplit) v += get(p.zx, i, 0) * get(p.zy, j, 1) + get(p.zx, i, 1) * get(p.zy, j, 0);
                p.s.at(i, j) += v;
            }
    vector<vector<int32_t>> lists(nx);
    for (int i = 0; i < nx; ++i) {
        if (relation == Relation::kDiagonal && i < ny) lists[i].push_back(i);
        if (relation == Relation::kMany && i % 7 != 3)
            for (int j = 0; j < ny; ++j)
                if (j == i || uniform(0, 1) < 2.0 / ny || (i % 5 == 0 && j == ny - 1) || (i % 5 == 1 && j == 0)) lists[i].push_back(j);
    }
    p.positives = Positives::from(lists);
    p.transposed = p.positives.transposed(ny);
    return p;
}

// A sweep over rows [row_begin, row_end) and columns [col_begin, col_end), its grid and its shared memory.
struct Launch {
    Sweep sweep;
    emu::Index grid;
    size_t shared;
    int rows() const { return sweep.row_end - sweep.row_begin; }
    int cols() const { return sweep.col_end - sweep.col_begin; }
    int row_parts() const { return int(grid.y) * 4; }
    int col_parts() const { return int(grid.x) * 2; }
};
inline Launch make_launch(const Embeddings& z, Csr masked, int row_begin, int row_end, int col_begin, int col_end, int tiles) {
    Launch l;
    l.sweep = {z, masked, nullptr, row_begin, row_end, col_begin, col_end, tiles, 0};
    const unsigned strips = unsigned(row_end - row_begin + 127) / 128, col_tiles = unsigned(col_end - col_begin + 127) / 128;
    l.grid = {strips, (col_tiles + unsigned(tiles) - 1) / unsigned(tiles), 1};
    const int chunks = (z.depth + 63) / 64, halves = z.products == 1 ? 1 : 2;
    const size_t row_slots = size_t(z.resident ? chunks * halves : shape::kSweepStages);
    l.shared = (row_slots + shape::kSweepStages) * sweep::kTileBytes + sweep::kMaskBytes + 16;
    return l;
}

template <class Body> void run(emu::Index grid, size_t shared, Body body) {
    emu::launch(grid, shape::kThreads, shared, backwards, body);
}
// One thread, or one warp, per item.
template <class Body> void run_items(int64_t items, bool warps, Body body) {
    const int64_t threads = warps ? items * 32 : items;
    run({unsigned((threads + shape::kThreads - 1) / shape::kThreads), 1, 1}, 0, body);
}
