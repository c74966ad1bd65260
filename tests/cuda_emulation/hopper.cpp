// The kernels for compute capability 9.0 against the float64 oracles and tolerances of dense.cpp.
#include "suite.h"

namespace {

template <class Body> void run_hopper(emu::Index grid, size_t shared, Body body) {
    emu::launch(grid, hopper::kThreads, shared, backwards, body);
}

int tiles_of(int rows) { return (rows + 255) / 256 * 4; }

vector<uint16_t> pack_rows(const Problem& p, const vector<uint16_t>& z, int rows, int chunks) {
    const int halves = p.mode == Mode::kSplit ? 2 : 1, tiles = tiles_of(rows);
    auto out = poisoned<uint16_t>(size_t(tiles) * chunks * 4096);
    run_items(int64_t(tiles) * chunks * 512, false, [&] {
        hopper_pack_cu::hopper_pack_rows(z.data(), p.ld(), p.depth, halves, rows, tiles, out.data());
    });
    return out;
}

// Piece c of row i of a swizzled tile begins at this element.
size_t piece_at(int i, int c) { return size_t(i) * 64 + size_t((c ^ (i & 7)) * 8); }

void packing() {
    context = "hopper packing";
    const Problem p = make_problem(Mode::kSplit, 70, 300, 72, Relation::kNone);
    const int chunks = 4;
    const vector<uint16_t> packed = pack_rows(p, p.zy, p.ny, chunks);
    for (int row = 0; row < tiles_of(p.ny) * 64; ++row)
        for (int c = 0; c < chunks * 64; ++c) {
            const int half = c / 128, k = c % 128;
            const uint16_t want = row < p.ny && k < p.depth ? p.zy[size_t(row) * p.ld() + half * p.depth + k] : 0;
            const size_t tile = size_t(row / 64) * chunks + c / 64;
            expect_equal(packed[tile * 4096 + piece_at(row % 64, c % 64 / 8) + c % 8], want, "packed embedding");
        }
    const int rows = 150, width = 130, ld = 136, padded = 256, skip = 13, tiles = 3;
    vector<uint16_t> v(size_t(rows) * ld);
    for (size_t i = 0; i < v.size(); ++i) v[i] = uint16_t(i * 7 + 1);
    auto out = poisoned<uint16_t>(size_t(tiles) * padded * 64);
    run_items(tiles * padded * 8, false, [&] {
        hopper_pack_cu::hopper_pack_values(v.data(), ld, width, rows, padded, skip, tiles, out.data());
    });
    for (int j = 0; j < tiles * 64; ++j)
        for (int d = 0; d < padded; ++d) {
            const int row = j - skip;
            const uint16_t want = row >= 0 && row < rows && d < width ? v[size_t(row) * ld + d] : 0;
            const size_t tile = size_t(j / 64) * padded * 64;
            expect_equal(out[tile + piece_at(d, j % 64 / 8) + j % 8], want, "packed value");
        }
}

struct HopperCase {
    Mode mode;
    int nx, ny, r;
    Relation relation;
    double tau;
    bool robust;
    int tiles, stages;  // stages beyond the fewest
    int width;          // of V
};

struct Packed {
    int chunks;
    vector<uint16_t> x, y;
    Packed(const Problem& p) : chunks((p.depth + 63) / 64 * (p.mode == Mode::kSplit ? 2 : 1)), x(pack_rows(p, p.zx, p.nx, chunks)), y(pack_rows(p, p.zy, p.ny, chunks)) {}
    Sweep sweep(const Problem& p, int row_begin, int row_end, int col_begin, int col_end, int tiles, int stages) const {
        return {{x.data(), y.data(), p.depth, chunks, p.mode == Mode::kSplit ? 3 : 1, stages}, p.positives.view(), nullptr, row_begin, row_end, col_begin, col_end, tiles, 0};
    }
};

// Begin and number of aligned pieces of `size` that [begin, end) touches.
unsigned pieces(int begin, int end, int size) { return unsigned((end + size - 1) / size - begin / size); }

void hopper_statistics(const Problem& p, const Packed& z, const HopperCase& c) {
    const float scale = float(1.4426950408889634 / c.tau), shift = c.robust ? 0.0f : 1.5f;
    const vector<double> rows = log_sums(p.s, p.positives, c.tau, false), cols = log_sums(p.s, p.positives, c.tau, true);
    vector<double> got_rows = poisoned<double>(p.nx), got_cols = poisoned<double>(p.ny);
    // Panels of rows and of columns that begin within tiles, and add up.
    const int split = p.nx > 20 ? p.nx / 2 + 3 : p.nx, middle = p.ny > 200 ? p.ny - 70 : p.ny, stages = z.chunks + c.stages;
    for (int panel = 0; panel < 4; ++panel) {
        const bool lower = panel & 1, right = panel & 2;
        const int begin = lower ? split : 0, end = lower ? p.nx : split, count = end - begin;
        const int col_begin = right ? middle : 0, col_end = right ? p.ny : middle, cols_count = col_end - col_begin;
        if (count == 0 || cols_count == 0) continue;
        const emu::Index grid{pieces(begin, end, 256), (pieces(col_begin, col_end, 128) + c.tiles - 1) / c.tiles, 1};
        const int row_parts = int(grid.y), col_parts = int(grid.x) * 2;
        auto row_sum = poisoned<float>(size_t(row_parts) * count), row_max = row_sum;
        auto col_sum = poisoned<float>(size_t(col_parts) * cols_count), col_max = col_sum;
        const ClipStats args{z.sweep(p, begin, end, col_begin, col_end, c.tiles, stages), scale, shift, row_sum.data(), row_max.data(), col_sum.data(), col_max.data()};
        using namespace hopper_stats_cu;
        run_hopper(grid, size_t(hopper::sweep_shared(z.chunks, stages)), [&] {
            const bool half = p.mode != Mode::kBf16;
            if (c.robust) half ? hopper_stats_robust_f16(args) : hopper_stats_robust_bf16(args);
            else half ? hopper_stats_f16(args) : hopper_stats_bf16(args);
        });
        run_items(count, false, [&] {
            reduce_cu::merge_log_sums(row_sum.data(), c.robust ? row_max.data() : nullptr, row_parts, count, shift, got_rows.data() + begin, right);
        });
        run_items(cols_count, false, [&] {
            reduce_cu::merge_log_sums(col_sum.data(), c.robust ? col_max.data() : nullptr, col_parts, cols_count, shift,
                                      got_cols.data() + col_begin, lower);
        });
    }
    for (int i = 0; i < p.nx; ++i) expect(got_rows[i], rows[i], 0, exponent_error(c.tau), "row log-sum");
    for (int j = 0; j < p.ny; ++j) expect(got_cols[j], cols[j], 0, exponent_error(c.tau), "column log-sum");
}

void hopper_panel(const Problem& p, const Packed& z, const HopperCase& c, const Coefficients& k) {
    const int col_begin = p.ny > 260 ? 136 : p.ny > 40 ? 8 : 0, row_begin = p.nx > 280 ? 261 : p.nx > 40 ? 5 : 0;
    const int rows = p.nx - row_begin, cols = p.ny - col_begin;
    const int64_t ld = (cols + 7) / 8 * 8;
    auto narrow = poisoned<uint16_t>(size_t(rows * ld));
    auto wide = poisoned<float>(size_t(rows * ld));
    const bool split = p.mode == Mode::kSplit;
    const int stages = z.chunks + c.stages;
    Launch l{z.sweep(p, row_begin, p.nx, col_begin, p.ny, c.tiles, stages), {pieces(row_begin, p.nx, 256), (pieces(col_begin, p.ny, 128) + c.tiles - 1) / c.tiles, 1},
             size_t(hopper::sweep_shared(z.chunks, stages))};
    const ClipWeights args{l.sweep, float(1.4426950408889634 / c.tau), 0, k.row.data(), k.col.data(), split ? (void*)wide.data() : narrow.data(), ld};
    using namespace hopper_weights_cu;
    run_hopper(l.grid, l.shared, [&] {
        if (split) c.robust ? hopper_weights_robust_f32(args) : hopper_weights_f32(args);
        else if (p.mode == Mode::kBf16) c.robust ? hopper_weights_robust_bf16(args) : hopper_weights_bf16(args);
        else c.robust ? hopper_weights_robust_f16(args) : hopper_weights_f16(args);
    });
    expect_panel(p, l, k.w, narrow, wide, ld, exponent_error(c.tau) + storage_error(p.mode), 3e-8);
}

void hopper_fused(const Problem& p, const Packed& z, const HopperCase& c, const Coefficients& k) {
    if (p.mode == Mode::kSplit) return;
    const int width = c.width, padded = width <= 128 ? 128 : 256, stages = 2 + c.stages;
    const int row_begin = p.nx > 280 ? 133 : p.nx > 40 ? 5 : 0, col_begin = p.ny > 260 ? 73 : p.ny > 40 ? 9 : 0, rows = p.nx - row_begin;
    const int64_t ld_values = (width + 7) / 8 * 8;
    // Values of the columns from `start` on only.
    const int start = col_begin, first = start / 64, tiles = (p.ny + 63) / 64 - first;
    vector<uint16_t> values(size_t(p.ny - start) * ld_values, 0);
    for (int j = start; j < p.ny; ++j)
        for (int d = 0; d < width; ++d) values[size_t(j - start) * ld_values + d] = store(p.mode, normal());
    auto packed = poisoned<uint16_t>(size_t(tiles) * padded * 64);
    run_items(int64_t(tiles) * padded * 8, false, [&] {
        hopper_pack_cu::hopper_pack_values(values.data(), ld_values, width, p.ny - start, padded, start - first * 64, tiles, packed.data());
    });
    auto out = poisoned<float>(size_t(rows) * (width + 1));
    // Two column ranges, the second adding to the first.
    const int middle = col_begin + (p.ny - col_begin) / 2;
    for (const int half : {0, 1}) {
        const int begin = half ? middle : col_begin, end = half ? p.ny : middle;
        if (begin == end && !half) {
            memset(out.data(), 0, out.size() * sizeof(float));
            continue;
        }
        const ClipFused args{z.sweep(p, row_begin, p.nx, begin, end, 0, stages), float(1.4426950408889634 / c.tau), 0, k.row.data(), k.col.data(),
                             packed.data() - size_t(first) * padded * 64, padded, width, half, out.data(), width + 1};
        using namespace hopper_fused_cu;
        run_hopper({pieces(row_begin, p.nx, 128), 1, 1}, size_t(hopper::fused_shared(z.chunks, stages, padded)), [&] {
            const bool bf16 = p.mode == Mode::kBf16;
            if (padded == 128) {
                if (bf16) c.robust ? hopper_fused128_robust_bf16(args) : hopper_fused128_bf16(args);
                else c.robust ? hopper_fused128_robust_f16(args) : hopper_fused128_f16(args);
            } else {
                if (bf16) c.robust ? hopper_fused256_robust_bf16(args) : hopper_fused256_bf16(args);
                else c.robust ? hopper_fused256_robust_f16(args) : hopper_fused256_f16(args);
            }
        });
    }
    for (int i = 0; i < rows; ++i)
        for (int d = 0; d < width; ++d) {
            double want = 0, size = 0;
            for (int j = col_begin; j < p.ny; ++j) {
                const double term = k.w.at(row_begin + i, j) * stored(p.mode, values[size_t(j - start) * ld_values + d]);
                want += term;
                size += std::fabs(term);
            }
            expect(out[size_t(i) * (width + 1) + d], want, 0, size * (exponent_error(c.tau) + storage_error(p.mode) + 2e-6) + 1e-6, "fused product");
        }
}

}  // namespace

void hopper_suite() {
    packing();
    const HopperCase cases[] = {
        {Mode::kHalf, 300, 270, 40, Relation::kMany, 0.07, false, 2, 1, 40},
        {Mode::kHalf, 131, 400, 130, Relation::kDiagonal, 0.07, false, 64, 0, 136},
        {Mode::kHalf, 5, 3, 10, Relation::kDiagonal, 1.0, false, 1, 0, 7},
        {Mode::kHalf, 60, 258, 72, Relation::kMany, 0.01, true, 2, 2, 128},
        {Mode::kHalf, 128, 128, 200, Relation::kNone, 0.02, true, 1, 0, 256},
        {Mode::kBf16, 257, 129, 16, Relation::kMany, 0.07, false, 1, 3, 129},
        {Mode::kBf16, 65, 127, 100, Relation::kMany, 0.02, true, 1, 1, 1},
        {Mode::kBf16, 20, 70, 256, Relation::kMany, 0.05, true, 1, 0, 200},
        {Mode::kSplit, 140, 150, 24, Relation::kMany, 0.07, false, 2, 0, 0},
        {Mode::kSplit, 70, 260, 80, Relation::kDiagonal, 0.05, false, 2, 1, 0},
        {Mode::kSplit, 131, 133, 128, Relation::kDiagonal, 0.01, true, 2, 0, 0},
        {Mode::kHalf, 1, 1, 1, Relation::kDiagonal, 0.07, false, 1, 0, 1},
        {Mode::kHalf, 64, 64, 64, Relation::kMany, 0.07, false, 1, 0, 64},
        {Mode::kBf16, 330, 40, 128, Relation::kNone, 0.05, true, 1, 0, 16},
        {Mode::kHalf, 63, 530, 1, Relation::kMany, 0.5, false, 3, 0, 130},
        {Mode::kSplit, 65, 64, 64, Relation::kNone, 0.07, false, 1, 3, 0},
    };
    for (const HopperCase& c : cases) {
        char text[160];
        snprintf(text, sizeof text, "hopper %s %dx%d r=%d tau=%g %sstages+%d", name(c.mode), c.nx, c.ny, c.r, c.tau, c.robust ? "robust " : "", c.stages);
        context = text;
        const Problem p = make_problem(c.mode, c.nx, c.ny, c.r, c.relation);
        const Packed z(p);
        hopper_statistics(p, z, c);
        const Coefficients k = coefficients(p, {c.mode, c.nx, c.ny, c.r, c.relation, c.tau, c.robust, true, c.tiles});
        hopper_panel(p, z, c, k);
        hopper_fused(p, z, c, k);
    }
}
