// Row kernels, positives, search and Gram values against float64.
#include "suite.h"

namespace {

double value_of(Mode mode, const vector<uint16_t>& z, int row, int c, int depth) {
    const int ld = mode == Mode::kSplit ? 2 * depth : depth;
    double v = stored(mode, z[size_t(row) * ld + c]);
    if (mode == Mode::kSplit) v += stored(mode, z[size_t(row) * ld + depth + c]);
    return v;
}

void normalisation() {
    context = "normalise";
    const int rows = 21, r = 37, ld = 41, depth = 48;
    vector<float> h(size_t(rows) * ld);
    for (int i = 0; i < rows; ++i)
        for (int c = 0; c < ld; ++c) {
            const double size = i == 3 ? 1e30 : i == 4 ? 1e-40 : i == 5 ? 0 : 1;
            h[size_t(i) * ld + c] = c < r ? float(normal() * size) : NAN;
        }
    h[7 * ld + 2] = NAN;
    for (const Mode mode : {Mode::kHalf, Mode::kBf16, Mode::kSplit}) {
        vector<uint16_t> z = poisoned<uint16_t>(size_t(rows) * depth * (mode == Mode::kSplit ? 2 : 1));
        auto norm = poisoned<float>(rows);
        using namespace rows_cu;
        run_items(rows, true, [&] {
            if (mode == Mode::kHalf) normalise_rows_f16(h.data(), rows, r, ld, depth, (half_t*)z.data(), norm.data());
            if (mode == Mode::kBf16) normalise_rows_bf16(h.data(), rows, r, ld, depth, (bf16_t*)z.data(), norm.data());
            if (mode == Mode::kSplit) normalise_rows_split(h.data(), rows, r, ld, depth, (half_t*)z.data(), norm.data());
        });
        const double unit = mode == Mode::kSplit ? 1e-7 : mode == Mode::kHalf ? 1.0 / 2048 : 1.0 / 256;
        for (int i = 0; i < rows; ++i) {
            double squares = 0;
            for (int c = 0; c < r; ++c) squares += double(h[size_t(i) * ld + c]) * h[size_t(i) * ld + c];
            const double length = std::sqrt(squares);
            if (i == 7) {
                expect_equal(std::isnan(norm[i]) && std::isnan(value_of(mode, z, i, 0, depth)), 1, "NaN is kept");
                continue;
            }
            expect(norm[i], length, i == 4 ? 1e-4 : 1e-6, 0, "norm");  // row 4 is denormal
            for (int c = 0; c < depth; ++c)
                expect(value_of(mode, z, i, c, depth), c < r && length > 0 ? h[size_t(i) * ld + c] / length : 0.0, unit, 1e-7 + (i == 4) * 1e-4, "z");
        }
    }
    // The gradient through the normalisation.
    Matrix g = random_matrix(rows, r);
    vector<float> norm(rows), got(g.v.begin(), g.v.end());
    for (int i = 0; i < rows; ++i) {
        if (i == 3 || i == 4 || i == 7)
            for (int c = 0; c < r; ++c) h[size_t(i) * ld + c] = float(normal());
        double s = 0;
        for (int c = 0; c < r; ++c) s += double(h[size_t(i) * ld + c]) * h[size_t(i) * ld + c];
        norm[i] = float(std::sqrt(s));
    }
    run_items(rows, true, [&] { rows_cu::normalise_backward(h.data(), ld, norm.data(), rows, r, got.data(), r); });
    for (int i = 0; i < rows; ++i) {
        double dot = 0;
        for (int c = 0; c < r; ++c) dot += norm[i] > 0 ? h[size_t(i) * ld + c] / double(norm[i]) * g.at(i, c) : 0;
        for (int c = 0; c < r; ++c)
            expect(got[size_t(i) * r + c], norm[i] > 0 ? (g.at(i, c) - h[size_t(i) * ld + c] / double(norm[i]) * dot) / norm[i] : 0, 1e-6, 1e-6, "gradient");
    }
}

void conversion() {
    context = "convert";
    const int rows = 19, cols = 45, ld_out = 48;
    const Matrix m = random_matrix(rows, cols);
    const vector<float> in(m.v.begin(), m.v.end());
    vector<float> norm(rows);
    for (int i = 0; i < rows; ++i) norm[i] = i == 2 ? 0.0f : float(uniform(0.5, 2));
    for (const bool scaled : {false, true}) {
        auto narrow = poisoned<uint16_t>(size_t(rows) * ld_out), brain = narrow;
        auto wide = poisoned<float>(size_t(rows) * ld_out);
        const float* n = scaled ? norm.data() : nullptr;
        run_items(rows, true, [&] { rows_cu::convert_rows_f16(in.data(), rows, cols, cols, 4.0f, n, (half_t*)narrow.data(), ld_out); });
        run_items(rows, true, [&] { rows_cu::convert_rows_bf16(in.data(), rows, cols, cols, 4.0f, n, (bf16_t*)brain.data(), ld_out); });
        run_items(rows, true, [&] { rows_cu::convert_rows_f32(in.data(), rows, cols, cols, 4.0f, n, wide.data(), ld_out); });
        auto half_back = poisoned<float>(narrow.size()), brain_back = half_back;
        run({2, 1, 1}, 0, [&] { rows_cu::widen_f16((half_t*)narrow.data(), int64_t(narrow.size()), half_back.data()); });
        run({2, 1, 1}, 0, [&] { rows_cu::widen_bf16((bf16_t*)brain.data(), int64_t(brain.size()), brain_back.data()); });
        for (int i = 0; i < rows; ++i)
            for (int c = 0; c < ld_out; ++c) {
                const double want = c >= cols || (scaled && i == 2) ? 0 : 4 * m.at(i, c) / (scaled ? norm[i] : 1);
                const size_t at = size_t(i) * ld_out + c;
                expect(half_back[at], want, 1.0 / 2048, 1e-7, "f16");
                expect(brain_back[at], want, 1.0 / 256, 1e-7, "bf16");
                expect(wide[at], want, 3e-7, 0, "f32");
            }
    }

    context = "reduce";
    const int parts = 3;
    const int64_t per_part = (rows + parts - 1) / parts;
    auto partial = poisoned<double>(size_t(parts) * cols);
    auto sums = poisoned<double>(cols);
    run({1, unsigned(parts), 1}, 0, [&] { reduce_cu::column_sums(in.data(), rows, cols, cols, per_part, partial.data()); });
    run_items(cols, false, [&] { reduce_cu::merge_doubles(partial.data(), parts, cols, sums.data(), 0); });
    for (int c = 0; c < cols; ++c) {
        double want = 0;
        for (int i = 0; i < rows; ++i) want += in[size_t(i) * cols + c];
        expect(sums[c], want, 1e-12, 1e-12, "column sum");
    }
    vector<float> strange = in;
    strange[5 * cols + 1] = NAN;
    strange[6 * cols + 1] = INFINITY;
    auto top = poisoned<float>(rows);
    run_items(rows, true, [&] { reduce_cu::row_max_abs(strange.data(), rows, cols, cols, top.data()); });
    for (int i = 0; i < rows; ++i) {
        double want = 0;
        for (int c = 0; c < cols; ++c) want = std::max(want, std::fabs(double(in[size_t(i) * cols + c])));
        if (i == 5 || i == 6) expect_equal(std::isnan(top[i]), 1, "not finite");
        else expect(top[i], want, 0, 0, "largest element");
    }
}

void positives_and_search(Mode mode, int nx, int ny, int r, int k) {
    char text[160];
    snprintf(text, sizeof text, "search %s %dx%d r=%d k=%d", name(mode), nx, ny, r, k);
    context = text;
    const Problem p = make_problem(mode, nx, ny, r, Relation::kMany);
    const bool bf16 = mode == Mode::kBf16;
    vector<int32_t> row;
    for (int i = 0; i < nx; ++i)
        for (int e = 0; e < p.positives.count(i); ++e) row.push_back(i);
    const int64_t pairs = int64_t(row.size());
    auto similarity = poisoned<float>(size_t(pairs));
    run_items((pairs + 7) / 8, true, [&] {
        using namespace rows_cu;
        const Embeddings z = p.view(false);
        bf16 ? pair_similarities_bf16(z, row.data(), p.positives.columns.data(), pairs, similarity.data())
             : pair_similarities_f16(z, row.data(), p.positives.columns.data(), pairs, similarity.data());
    });
    for (int64_t e = 0; e < pairs; ++e) expect(similarity[e], p.s.at(row[e], p.positives.columns[e]), 0, 2e-6, "pair similarity");

    // out <- 0.5 out + 2 sum c v
    const int width = 35;
    const Matrix v = random_matrix(ny, width), before = random_matrix(nx, width);
    vector<uint16_t> values(size_t(ny) * width);
    for (size_t i = 0; i < values.size(); ++i) values[i] = store(mode, v.v[i]);
    const vector<float> wide(v.v.begin(), v.v.end());
    vector<float> coefficient(pairs);
    for (float& c : coefficient) c = float(normal());
    for (const bool full : {false, true}) {
        vector<float> out(before.v.begin(), before.v.end());
        run_items(nx - 1, true, [&] {  // from row 1 on
            using namespace rows_cu;
            const Csr csr = p.positives.view();
            float* to = out.data() + width;
            if (full) add_positives_f32(csr, coefficient.data(), wide.data(), width, 2, 1, nx - 1, width, 0.5f, to, width);
            else if (bf16) add_positives_bf16(csr, coefficient.data(), (bf16_t*)values.data(), width, 2, 1, nx - 1, width, 0.5f, to, width);
            else add_positives_f16(csr, coefficient.data(), (half_t*)values.data(), width, 2, 1, nx - 1, width, 0.5f, to, width);
        });
        for (int i = 1; i < nx; ++i)
            for (int c = 0; c < width; ++c) {
                double want = 0.5 * float(before.at(i, c)), size = std::fabs(want);
                for (int64_t e = p.positives.offsets[i]; e < p.positives.offsets[i + 1]; ++e) {
                    const size_t at = size_t(p.positives.columns[e]) * width + c;
                    const double term = 2.0 * coefficient[e] * (full ? wide[at] : stored(mode, values[at]));
                    want += term;
                    size += std::fabs(term);
                }
                expect(out[size_t(i) * width + c], want, 0, size * 1e-6 + 1e-7, "positives' product");
            }
    }

    // The k best, with an exact tie between columns 1 and 4.
    Launch l = make_launch(p.view(true), {nullptr, nullptr}, 0, nx, 0, ny, 1);
    auto value = poisoned<float>(size_t(l.row_parts()) * nx * k);
    auto index = poisoned<int32_t>(value.size());
    const TopK top{l.sweep, k, 0, value.data(), index.data()};
    run(l.grid, l.shared, [&] { bf16 ? search_cu::top_k_bf16(top) : search_cu::top_k_f16(top); });
    run_items(nx, true, [&] { search_cu::merge_top_k(value.data(), index.data(), l.row_parts(), nx, k); });
    for (int i = 0; i < nx; ++i) {
        vector<double> sorted(p.s.v.begin() + size_t(i) * ny, p.s.v.begin() + size_t(i + 1) * ny);
        std::sort(sorted.rbegin(), sorted.rend());
        vector<bool> seen(ny, false);
        for (int e = 0; e < k; ++e) {
            const size_t at = size_t(i) * k + e;
            if (e >= ny) {
                expect_equal(index[at], 0x7fffffff, "unused place");
                continue;
            }
            const int j = index[at];
            if (j < 0 || j >= ny || seen[j]) {
                expect_equal(j, -1, "a column, once");
                continue;
            }
            seen[j] = true;
            expect(value[at], p.s.at(i, j), 0, 2e-6, "score of the column");
            expect(value[at], sorted[e], 0, 2e-6, "score of the place");
            if (e > 0 && value[at] == value[at - 1]) expect_equal(index[at - 1] < j, 1, "ties by lower column");
        }
        for (int e = 0; e < k && ny > 4; ++e)
            if (index[size_t(i) * k + e] == 4) expect_equal(seen[1], 1, "of equal columns the lower comes first");
    }

    // Ranks of the best positive; exact ties only between columns 1 and 4, all else is separated beyond rounding or skipped.
    vector<float> best(nx, INFINITY);
    vector<int32_t> best_index(nx, 0);
    for (int64_t e = pairs - 1; e >= 0; --e) {
        float& b = best[row[e]];
        if (std::isinf(b) || similarity[e] >= b) b = similarity[e], best_index[row[e]] = p.positives.columns[e];
    }
    l = make_launch(p.view(false), p.positives.view(), 0, nx, 0, ny, 1);
    auto parts = poisoned<int32_t>(size_t(l.row_parts()) * nx), count = poisoned<int32_t>(nx);
    const Ranks ranks{l.sweep, best.data(), best_index.data(), parts.data()};
    run(l.grid, l.shared, [&] { bf16 ? search_cu::ranks_bf16(ranks) : search_cu::ranks_f16(ranks); });
    run_items(nx, false, [&] { reduce_cu::merge_counts(parts.data(), l.row_parts(), nx, count.data()); });
    for (int i = 0; i < nx; ++i) {
        if (p.positives.count(i) == 0) {
            expect_equal(count[i], 0, "rank without positives");
            continue;
        }
        int want = 0;
        bool close = false;
        const double b = p.s.at(i, best_index[i]);
        for (int j = 0; j < ny; ++j) {
            if (p.positives.contains(i, j)) continue;
            const double s = p.s.at(i, j);
            if (s == b) want += j < best_index[i];
            else want += s > b, close |= std::fabs(s - b) < 4e-6;
        }
        if (!close) expect_equal(count[i], want, "rank");
    }
}

double kernel_value(int kind, double dot, double a, double b, double parameter, double clamp) {
    if (kind == 0) return dot;
    const double squared = std::max(a + b - 2 * dot, 0.0);
    if (kind == 5) return std::exp(-parameter * squared);
    if (kind == 6) return (1 + std::sqrt(3 * (squared + 1e-12)) / parameter) * std::exp(-std::sqrt(3 * (squared + 1e-12)) / parameter);
    const double c = a > 0 && b > 0 ? std::min(std::max(dot / std::sqrt(a * b), -clamp), clamp) : 0;
    if (kind == 1) return c;
    if (kind == 2) return 1 - std::acos(c) / M_PI;
    if (kind == 3) return (std::sin(std::acos(c)) + (M_PI - std::acos(c)) * c) / M_PI;
    return std::exp(parameter * c);
}

template <class F, class Values, class Squares> void gram(Values values, Squares squares, double tolerance) {
    const int rows = 13, cols = 29, d = 17, ld = 31;
    Matrix x = random_matrix(rows, d), y = random_matrix(cols, d);
    for (int c = 0; c < d; ++c) x.at(2, c) = 0, y.at(5, c) = x.at(4, c), y.at(6, c) = -x.at(4, c);
    const vector<F> xf(x.v.begin(), x.v.end()), yf(y.v.begin(), y.v.end());
    auto a = poisoned<F>(rows), b = poisoned<F>(cols);
    run_items(rows, true, [&] { squares(xf.data(), rows, d, d, a.data()); });
    run_items(cols, true, [&] { squares(yf.data(), cols, d, d, b.data()); });
    for (int kind = 0; kind < 7; ++kind)
        for (const double clamp : {1.0, 1.0 - 1e-5}) {
            vector<F> k(size_t(rows) * ld);
            for (int i = 0; i < rows; ++i)
                for (int j = 0; j < cols; ++j) {
                    F dot = 0;
                    for (int c = 0; c < d; ++c) dot += xf[i * d + c] * yf[j * d + c];
                    k[size_t(i) * ld + j] = dot;
                }
            const vector<F> dots = k;
            run({2, 1, 1}, 0, [&] { values(kind, k.data(), rows, cols, ld, a.data(), b.data(), F(0.3), F(clamp)); });
            for (int i = 0; i < rows; ++i)
                for (int j = 0; j < cols; ++j) {
                    // Where the value has a square-root singularity (equal or opposite points) the rounding of the
                    // inner product comes out as its root.
                    const bool singular = (j == 5 || j == 6) && i == 4;
                    expect(k[size_t(i) * ld + j], kernel_value(kind, dots[size_t(i) * ld + j], a[i], b[j], F(0.3), F(clamp)), tolerance, singular ? 30 * std::sqrt(tolerance) : tolerance * 30, "kernel " + std::to_string(kind));
                }
        }
}

}  // namespace

void rows_suite() {
    normalisation();
    conversion();
    positives_and_search(Mode::kHalf, 130, 261, 20, 5);
    positives_and_search(Mode::kBf16, 33, 140, 70, 40);
    positives_and_search(Mode::kSplit, 70, 131, 33, 3);
    positives_and_search(Mode::kHalf, 9, 6, 3, 10);
    context = "gram f32";
    gram<float>(gram_cu::kernel_values_f32, gram_cu::row_squares_f32, 2e-6);
    context = "gram f64";
    gram<double>(gram_cu::kernel_values_f64, gram_cu::row_squares_f64, 1e-14);
}
