// Clip and additive kernels against float64. Tolerances: the sum of r <= 150 products in fp32 is good to 2e-6, so an
// exponential of s/tau has the relative error 2e-6/tau + 1e-6 (approximate exp2, rounding of its argument); a 16-bit weight adds
// half a unit in its last place, 2^-11 or 2^-8 of it.
#include "suite.h"

namespace {

double exponent_error(double tau) { return 2e-6 / tau + 4e-6; }

struct ClipCase {
    Mode mode;
    int nx, ny, r;
    Relation relation;
    double tau;
    bool robust, resident;
    int tiles;
};

vector<double> log_sums(const Matrix& s, const Positives& positives, double tau, bool columns) {
    vector<double> out;
    for (int a = 0; a < (columns ? s.cols : s.rows); ++a) {
        double total = 0, top = -1e300;
        for (int pass = 0; pass < 2; ++pass)
            for (int b = 0; b < (columns ? s.rows : s.cols); ++b) {
                const int i = columns ? b : a, j = columns ? a : b;
                if (positives.contains(i, j)) continue;
                const double t = s.at(i, j) / tau;
                if (pass == 0) top = std::max(top, t);
                else total += std::exp(t - top);
            }
        out.push_back(total > 0 ? top + std::log(total) : -INFINITY);
    }
    return out;
}

void clip_statistics(const Problem& p, const ClipCase& c) {
    const float scale = float(1.4426950408889634 / c.tau), shift = c.robust ? 0.0f : 1.5f;
    const vector<double> rows = log_sums(p.s, p.positives, c.tau, false), cols = log_sums(p.s, p.positives, c.tau, true);
    vector<double> got_rows = poisoned<double>(p.nx), got_cols = poisoned<double>(p.ny);
    // Two panels of rows, so that columns accumulate.
    const int split = p.nx > 20 ? p.nx / 2 + 3 : p.nx;
    for (int panel = 0; panel < (split < p.nx ? 2 : 1); ++panel) {
        const int begin = panel ? split : 0, end = panel ? p.nx : split;
        const Launch l = make_launch(p.view(c.resident), p.positives.view(), begin, end, 0, p.ny, c.tiles);
        auto row_sum = poisoned<float>(size_t(l.row_parts()) * l.rows()), row_max = row_sum;
        auto col_sum = poisoned<float>(size_t(l.col_parts()) * l.cols()), col_max = col_sum;
        const ClipStats args{l.sweep, scale, shift, row_sum.data(), row_max.data(), col_sum.data(), col_max.data()};
        using namespace clip_stats_cu;
        run(l.grid, l.shared, [&] {
            const bool half = p.mode != Mode::kBf16;
            if (c.robust) half ? clip_stats_robust_f16(args) : clip_stats_robust_bf16(args);
            else half ? clip_stats_f16(args) : clip_stats_bf16(args);
        });
        run_items(l.rows(), false, [&] {
            reduce_cu::merge_log_sums(row_sum.data(), c.robust ? row_max.data() : nullptr, l.row_parts(), l.rows(), shift,
                                      got_rows.data() + begin, 0);
        });
        run_items(l.cols(), false, [&] {
            reduce_cu::merge_log_sums(col_sum.data(), c.robust ? col_max.data() : nullptr, l.col_parts(), l.cols(), shift,
                                      got_cols.data(), panel);
        });
    }
    for (int i = 0; i < p.nx; ++i) expect(got_rows[i], rows[i], 0, exponent_error(c.tau), "row log-sum");
    for (int j = 0; j < p.ny; ++j) expect(got_cols[j], cols[j], 0, exponent_error(c.tau), "column log-sum");
}

// Coefficients of the size that a fit has: weights between 0 and about 1, scaled by 2^10 as the backend does.
struct Coefficients {
    vector<float> row, col;
    Matrix w;
};
Coefficients coefficients(const Problem& p, const ClipCase& c) {
    Coefficients k;
    vector<double> a = log_sums(p.s, p.positives, c.tau, false), b = log_sums(p.s, p.positives, c.tau, true);
    const double ln_scale = std::log(1024.0);
    for (double& v : a) v = std::isfinite(v) ? ln_scale - v : -INFINITY;
    for (double& v : b) v = std::isfinite(v) ? ln_scale - v : -INFINITY;
    if (p.nx > 2) a[2] = -INFINITY;
    auto given = [&](double v) { return c.robust ? float(v * 1.4426950408889634) : float(std::exp(v)); };
    for (double v : a) k.row.push_back(given(v));
    for (double v : b) k.col.push_back(given(v));
    k.w = Matrix(p.nx, p.ny);
    for (int i = 0; i < p.nx; ++i)
        for (int j = 0; j < p.ny; ++j)
            k.w.at(i, j) = p.positives.contains(i, j) ? 0 : std::exp(p.s.at(i, j) / c.tau + a[i]) + std::exp(p.s.at(i, j) / c.tau + b[j]);
    return k;
}

template <class Args> void launch_clip_weights(const Launch& l, Mode mode, bool robust, bool wide, const Args& args) {
    using namespace clip_weights_cu;
    run(l.grid, l.shared, [&] {
        if (wide) robust ? clip_weights_robust_f32(args) : clip_weights_f32(args);
        else if (mode == Mode::kBf16) robust ? clip_weights_robust_bf16(args) : clip_weights_bf16(args);
        else robust ? clip_weights_robust_f16(args) : clip_weights_f16(args);
    });
}

double storage_error(Mode mode) { return mode == Mode::kSplit ? 0 : mode == Mode::kBf16 ? 1.0 / 256 : 1.0 / 2048; }

void expect_panel(const Problem& p, const Launch& l, const Matrix& w, const vector<uint16_t>& narrow, const vector<float>& wide,
                  int64_t ld, double relative, double absolute) {
    for (int i = 0; i < l.rows(); ++i)
        for (int64_t j = 0; j < ld; ++j) {
            if (p.mode == Mode::kSplit && j >= l.cols()) continue;
            const double got = p.mode == Mode::kSplit ? wide[i * ld + j] : stored(p.mode, narrow[i * ld + j]);
            const double want = j < l.cols() ? w.at(l.sweep.row_begin + i, l.sweep.col_begin + int(j)) : 0.0;
            expect(got, want, relative, absolute, "weight");
        }
}

void clip_panel(const Problem& p, const ClipCase& c) {
    const Coefficients k = coefficients(p, c);
    const int col_begin = p.ny > 40 ? 8 : 0, row_begin = p.nx > 40 ? 5 : 0;
    const Launch l = make_launch(p.view(c.resident), p.positives.view(), row_begin, p.nx, col_begin, p.ny, c.tiles);
    const int64_t ld = (l.cols() + 7) / 8 * 8;
    auto narrow = poisoned<uint16_t>(size_t(l.rows() * ld));
    auto wide = poisoned<float>(size_t(l.rows() * ld));
    const bool split = p.mode == Mode::kSplit;
    const ClipWeights args{l.sweep, float(1.4426950408889634 / c.tau), 0, k.row.data(), k.col.data(), split ? (void*)wide.data() : narrow.data(), ld};
    launch_clip_weights(l, p.mode, c.robust, split, args);
    expect_panel(p, l, k.w, narrow, wide, ld, exponent_error(c.tau) + storage_error(p.mode), 3e-8);
}

void clip_fused(const Problem& p, const ClipCase& c, int width) {
    if (p.mode == Mode::kSplit) return;
    const Coefficients k = coefficients(p, c);
    const int64_t ld_values = (width + 7) / 8 * 8;
    vector<uint16_t> values(size_t(p.ny * ld_values), 0);
    for (int j = 0; j < p.ny; ++j)
        for (int d = 0; d < width; ++d) values[j * ld_values + d] = store(p.mode, normal());
    const int row_begin = p.nx > 40 ? 5 : 0, col_begin = p.ny > 40 ? 9 : 0;
    Launch l = make_launch(p.view(true), p.positives.view(), row_begin, p.nx, col_begin, p.ny, 1);
    const int chunks = (p.depth + 63) / 64;
    const size_t shared = size_t(chunks) * (128 + 2 * 64) * 128 + 2 * 64 * 128 * 2;
    // Two column ranges, the second adding to the first.
    auto out = poisoned<float>(size_t(l.rows()) * (width + 1));
    const int middle = col_begin + (p.ny - col_begin) / 2;
    for (const int half : {0, 1}) {
        l.sweep.col_begin = half ? middle : col_begin;
        l.sweep.col_end = half ? p.ny : middle;
        if (l.sweep.col_begin == l.sweep.col_end && !half && middle < p.ny) {
            memset(out.data(), 0, out.size() * sizeof(float));
            continue;
        }
        const ClipFused args{l.sweep, float(1.4426950408889634 / c.tau), 0, k.row.data(), k.col.data(), values.data(), ld_values, width, half, out.data(), width + 1};
        using namespace clip_fused_cu;
        run({l.grid.x, unsigned(width + 127) / 128, 1}, shared, [&] {
            if (p.mode == Mode::kBf16) c.robust ? clip_fused_robust_bf16(args) : clip_fused_bf16(args);
            else c.robust ? clip_fused_robust_f16(args) : clip_fused_f16(args);
        });
    }
    for (int i = 0; i < l.rows(); ++i)
        for (int d = 0; d < width; ++d) {
            double want = 0, size = 0;
            for (int j = col_begin; j < p.ny; ++j) {
                const double term = k.w.at(row_begin + i, j) * stored(p.mode, values[j * ld_values + d]);
                want += term;
                size += std::fabs(term);
            }
            expect(out[size_t(i) * (width + 1) + d], want, 0, size * (exponent_error(c.tau) + storage_error(p.mode) + 2e-6) + 1e-6, "fused product");
        }
}

// ---- additive members

struct AdditiveCase {
    Mode mode;
    int nx, ny, r;
    Relation relation;
    double tau, nu;
    int loss;  // sigmoid, triplet_hard, triplet_smooth
};

double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); }
double logistic(double x) { return 1 / (1 + std::exp(-x)); }
const double kMargin = 0.4;
double psi(int loss, double tau, double t) {
    return loss == 0 ? softplus(t / tau) : loss == 1 ? std::max(t + kMargin, 0.0) : -tau * tau * softplus((kMargin - t) / tau);
}
double dpsi(int loss, double tau, double t) {
    return loss == 0 ? logistic(t / tau) / tau : loss == 1 ? (t + kMargin > 0) : tau * logistic((kMargin - t) / tau);
}

// A hinge may fall on either side of its kink when its argument is within rounding of 0.
bool near_kink(int loss, double t) { return loss == 1 && std::fabs(t + kMargin) < 4e-6; }

void additive(const AdditiveCase& c) {
    const Problem p = make_problem(c.mode, c.nx, c.ny, c.r, c.relation);
    const bool bf16 = c.mode == Mode::kBf16;
    auto thresholds = [&](const Positives& pos, bool swapped) {
        vector<float> t;
        for (int i = 0; i + 1 < int(pos.offsets.size()); ++i)
            for (int64_t e = pos.offsets[i]; e < pos.offsets[i + 1]; ++e)
                t.push_back(float(c.nu * (swapped ? p.s.at(pos.columns[e], i) : p.s.at(i, pos.columns[e]))));
        return t;
    };
    const vector<float> row_threshold = thresholds(p.positives, false), col_threshold = thresholds(p.transposed, true);

    vector<int32_t> row_of;
    for (int i = 0; i < p.nx; ++i)
        for (int k = 0; k < p.positives.count(i); ++k) row_of.push_back(i);
    const int entries = int(row_of.size());
    Launch l = make_launch(p.view(c.r % 2), p.positives.view(), 0, entries, 0, p.ny, 2);
    l.sweep.row_of = row_of.data();
    auto psi_parts = poisoned<float>(size_t(l.row_parts()) * entries), dpsi_parts = psi_parts;
    const AdditiveSums sums{l.sweep, float(c.tau), float(kMargin), row_threshold.data(), psi_parts.data(), dpsi_parts.data()};
    using namespace additive_cu;
    run(l.grid, l.shared, [&] {
        if (c.loss == 0) bf16 ? sigmoid_sums_bf16(sums) : sigmoid_sums_f16(sums);
        if (c.loss == 1) bf16 ? triplet_hard_sums_bf16(sums) : triplet_hard_sums_f16(sums);
        if (c.loss == 2) bf16 ? triplet_smooth_sums_bf16(sums) : triplet_smooth_sums_f16(sums);
    });
    auto got_psi = poisoned<double>(entries), got_dpsi = got_psi;
    run_items(entries, false, [&] { reduce_cu::merge_sums(psi_parts.data(), l.row_parts(), entries, got_psi.data(), 0); });
    run_items(entries, false, [&] { reduce_cu::merge_sums(dpsi_parts.data(), l.row_parts(), entries, got_dpsi.data(), 0); });
    for (int e = 0; e < entries; ++e) {
        double want = 0, slope = 0, kinks = 0;
        for (int j = 0; j < p.ny; ++j) {
            if (p.positives.contains(row_of[e], j)) continue;
            const double t = p.s.at(row_of[e], j) - row_threshold[e];
            want += psi(c.loss, c.tau, t);
            slope += dpsi(c.loss, c.tau, t);
            kinks += near_kink(c.loss, t);
        }
        // psi moves by psi' ds; its sum has at most n terms, each good to 1e-6 of itself.
        expect(got_psi[e], want, 4e-6, slope * 4e-6 + 1e-7, "sum of psi");
        expect(got_dpsi[e], slope, exponent_error(c.tau), kinks, "sum of psi'");
    }

    vector<float> row_factor, col_factor;
    for (int i = 0; i < p.nx; ++i) row_factor.push_back(float(uniform(0.5, 2)));
    for (int j = 0; j < p.ny; ++j) col_factor.push_back(float(uniform(0.5, 2)));
    Matrix w(p.nx, p.ny);
    double kink = 0;
    for (int i = 0; i < p.nx; ++i)
        for (int j = 0; j < p.ny; ++j) {
            if (p.positives.contains(i, j)) continue;
            for (int64_t e = p.positives.offsets[i]; e < p.positives.offsets[i + 1]; ++e)
                w.at(i, j) += row_factor[i] * dpsi(c.loss, c.tau, p.s.at(i, j) - row_threshold[e]), kink += near_kink(c.loss, p.s.at(i, j) - row_threshold[e]);
            for (int64_t e = p.transposed.offsets[j]; e < p.transposed.offsets[j + 1]; ++e)
                w.at(i, j) += col_factor[j] * dpsi(c.loss, c.tau, p.s.at(i, j) - col_threshold[e]), kink += near_kink(c.loss, p.s.at(i, j) - col_threshold[e]);
        }
    l = make_launch(p.view(c.r % 2), p.positives.view(), 0, p.nx, 0, p.ny, 1);
    const int64_t ld = (l.cols() + 7) / 8 * 8;
    auto narrow = poisoned<uint16_t>(size_t(l.rows() * ld));
    auto wide = poisoned<float>(size_t(l.rows() * ld));
    const bool split = c.mode == Mode::kSplit;
    const AdditiveWeights args{l.sweep, float(c.tau), float(kMargin), p.positives.offsets.data(), row_threshold.data(), row_factor.data(),
                               p.transposed.offsets.data(), col_threshold.data(), col_factor.data(), split ? (void*)wide.data() : narrow.data(), ld};
    run(l.grid, l.shared, [&] {
        if (c.loss == 0) split ? sigmoid_weights_f32(args) : bf16 ? sigmoid_weights_bf16(args) : sigmoid_weights_f16(args);
        if (c.loss == 1) split ? triplet_hard_weights_f32(args) : bf16 ? triplet_hard_weights_bf16(args) : triplet_hard_weights_f16(args);
        if (c.loss == 2) split ? triplet_smooth_weights_f32(args) : bf16 ? triplet_smooth_weights_bf16(args) : triplet_smooth_weights_f16(args);
    });
    expect_panel(p, l, w, narrow, wide, ld, exponent_error(c.tau) + storage_error(c.mode), kink > 0 ? 2.0 : 6e-8);
}

}  // namespace

void dense_suite() {
    const ClipCase cases[] = {
        {Mode::kHalf, 131, 258, 40, Relation::kMany, 0.07, false, true, 2},
        {Mode::kHalf, 131, 300, 72, Relation::kDiagonal, 0.07, false, false, 1},
        {Mode::kHalf, 5, 3, 10, Relation::kDiagonal, 1.0, false, true, 64},
        {Mode::kHalf, 200, 130, 130, Relation::kMany, 0.01, true, true, 64},
        {Mode::kHalf, 128, 128, 64, Relation::kNone, 0.02, true, false, 1},
        {Mode::kBf16, 129, 257, 16, Relation::kMany, 0.07, false, true, 3},
        {Mode::kBf16, 129, 127, 100, Relation::kMany, 0.02, true, false, 1},
        {Mode::kSplit, 140, 150, 24, Relation::kMany, 0.07, false, true, 2},
        {Mode::kSplit, 70, 260, 80, Relation::kDiagonal, 0.05, false, true, 2},
        {Mode::kSplit, 131, 133, 70, Relation::kDiagonal, 0.01, true, false, 2},
        {Mode::kHalf, 1, 1, 1, Relation::kDiagonal, 0.07, false, true, 1},
        {Mode::kHalf, 290, 100, 20, Relation::kMany, 0.07, false, true, 1},  // several blocks along the rows
    };
    for (const ClipCase& c : cases) {
        char text[160];
        snprintf(text, sizeof text, "clip %s %dx%d r=%d tau=%g %s%s", name(c.mode), c.nx, c.ny, c.r, c.tau, c.robust ? "robust " : "", c.resident ? "resident" : "streamed");
        context = text;
        const Problem p = make_problem(c.mode, c.nx, c.ny, c.r, c.relation);
        clip_statistics(p, c);
        clip_panel(p, c);
        clip_fused(p, c, c.r % 3 == 0 ? 40 : c.r % 3 == 1 ? 136 : 7);
    }
    int k = 0;
    for (int loss = 0; loss < 3; ++loss)
        for (const Mode mode : {Mode::kHalf, Mode::kBf16, Mode::kSplit}) {
            const AdditiveCase c{mode, 60 + 37 * (k % 3), 141 - 31 * (k % 4), 9 + 20 * (k % 5), k % 2 ? Relation::kMany : Relation::kDiagonal, k % 4 == 3 ? 0.02 : 0.1, loss == 0 ? 1.5 : 1.0, loss};
            char text[160];
            snprintf(text, sizeof text, "additive %d %s %dx%d r=%d tau=%g", loss, name(mode), c.nx, c.ny, c.r, c.tau);
            context = text;
            additive(c);
            ++k;
        }
}
