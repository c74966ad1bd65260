// Row kernels, positives, search and Gram values against float64.
#include "suite.h"

namespace {

// The device's layout of embeddings: 16-bit values, then their remainders.
double value_of(Mode mode, const vector<uint16_t>& z, int row, int c, int depth) {
    return stored(mode, z[size_t(row) * 2 * depth + c]) + stored(mode, z[size_t(row) * 2 * depth + depth + c]);
}
// Half a unit in the last place of a value and its remainder; fp16's smallest number bounds it from below.
double split_error(Mode mode) { return mode == Mode::kBf16 ? 1.0 / (1 << 17) : 3e-7; }
constexpr double kSmallestHalf = 6e-8;

void normalisation() {
    context = "normalise";
    const int rows = 21, r = 37, ld = 41, depth = 48;
    vector<float> h(size_t(rows) * ld);
    for (int i = 0; i < rows; ++i)
        for (int c = 0; c < ld; ++c) {
            const double size = i == 3 ? 1e30 : i == 4 ? 1e-40 : i == 5 ? 0 : i == 6 ? 1e-11 : 1;
            h[size_t(i) * ld + c] = c < r ? float(normal() * size) : NAN;
        }
    h[7 * ld + 2] = NAN;
    for (const Mode mode : {Mode::kHalf, Mode::kBf16}) {
        vector<uint16_t> z = poisoned<uint16_t>(size_t(rows) * depth * 2);
        auto norm = poisoned<float>(rows);
        using namespace rows_cu;
        run_items(rows, true, [&] {
            if (mode == Mode::kHalf) normalise_rows_f16(h.data(), rows, r, ld, depth, (half_t*)z.data(), norm.data());
            if (mode == Mode::kBf16) normalise_rows_bf16(h.data(), rows, r, ld, depth, (bf16_t*)z.data(), norm.data());
        });
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
                expect(value_of(mode, z, i, c, depth), c < r && length > 0 ? h[size_t(i) * ld + c] / length : 0.0,
                       split_error(mode) + 1e-4 * (i == 4) + 1e-6 * (i == 6), kSmallestHalf, "z");
        }
    }
    for (const Mode mode : {Mode::kHalf, Mode::kBf16}) {
        vector<uint16_t> z = poisoned<uint16_t>(size_t(rows) * depth * 2);
        run_items(2, true, [&] {
            if (mode == Mode::kHalf) rows_cu::split_rows_f16(h.data(), 2, r, ld, (half_t*)z.data(), depth);
            else rows_cu::split_rows_bf16(h.data(), 2, r, ld, (bf16_t*)z.data(), depth);
        });
        for (int i = 0; i < 2; ++i)
            for (int c = 0; c < depth; ++c)
                expect(value_of(mode, z, i, c, depth), c < r ? h[size_t(i) * ld + c] : 0.0, split_error(mode), kSmallestHalf, "split");
    }
    // The gradient through the normalisation, of unit rows and of rows that have no direction.
    const Matrix g = random_matrix(rows, r), directions = random_matrix(rows, r);
    const vector<float> from(g.v.begin(), g.v.end());
    vector<float> z(size_t(rows) * r), norm(rows);
    auto got = poisoned<float>(z.size());
    for (int i = 0; i < rows; ++i) {
        double s = 0;
        for (int c = 0; c < r; ++c) s += directions.at(i, c) * directions.at(i, c);
        for (int c = 0; c < r; ++c) z[size_t(i) * r + c] = float(directions.at(i, c) / std::sqrt(s));
        norm[i] = i == 2 ? 0.0f : i == 3 ? 1e-30f : float(std::sqrt(s));
    }
    run_items(rows, true, [&] { rows_cu::tangent_rows(z.data(), norm.data(), from.data(), r, rows, r, got.data()); });
    for (int i = 0; i < rows; ++i) {
        double dot = 0;
        for (int c = 0; c < r; ++c) dot += double(z[size_t(i) * r + c]) * g.at(i, c);
        for (int c = 0; c < r; ++c)
            expect(got[size_t(i) * r + c], norm[i] > 1e-30f ? (g.at(i, c) - z[size_t(i) * r + c] * dot) / norm[i] : 0, 1e-6, 1e-6, "gradient");
    }
}

void conversion() {
    context = "convert";
    const int rows = 19, cols = 45, width = 48, ld_out = 51;
    const Matrix m = random_matrix(rows, cols);
    const vector<float> in(m.v.begin(), m.v.end());
    vector<float> scale(rows);
    for (int i = 0; i < rows; ++i) scale[i] = i == 2 ? 0.0f : float(uniform(0.5, 2));
    for (const bool scaled : {false, true}) {
        auto narrow = poisoned<uint16_t>(size_t(rows) * ld_out), brain = narrow;
        auto wide = poisoned<float>(size_t(rows) * ld_out);
        const float* f = scaled ? scale.data() : nullptr;
        run_items(rows, true, [&] { rows_cu::convert_rows_f16(in.data(), rows, cols, cols, 4.0f, f, (half_t*)narrow.data(), width, ld_out); });
        run_items(rows, true, [&] { rows_cu::convert_rows_bf16(in.data(), rows, cols, cols, 4.0f, f, (bf16_t*)brain.data(), width, ld_out); });
        run_items(rows, true, [&] { rows_cu::convert_rows_f32(in.data(), rows, cols, cols, 4.0f, f, wide.data(), width, ld_out); });
        auto half_back = poisoned<float>(size_t(rows) * width), brain_back = half_back;
        run_items(rows, true, [&] { rows_cu::widen_rows_f16((half_t*)narrow.data(), rows, width, ld_out, 0, half_back.data(), width); });
        run_items(rows, true, [&] { rows_cu::widen_rows_bf16((bf16_t*)brain.data(), rows, width, ld_out, 0, brain_back.data(), width); });
        for (int i = 0; i < rows; ++i)
            for (int c = 0; c < ld_out; ++c) {
                if (c >= width) {
                    expect_equal(std::isnan(wide[size_t(i) * ld_out + c]) && narrow[size_t(i) * ld_out + c] == 0xffff, 1, "what lies between rows");
                    continue;
                }
                const double want = c >= cols ? 0 : 4 * m.at(i, c) * (scaled ? scale[i] : 1);
                const size_t at = size_t(i) * width + c;
                expect(half_back[at], want, 1.0 / 2048, 1e-7, "f16");
                expect(brain_back[at], want, 1.0 / 256, 1e-7, "bf16");
                expect(wide[size_t(i) * ld_out + c], want, 3e-7, 0, "f32");
            }
    }
    // Values with their remainders, and double.
    const int depth = 48;
    vector<uint16_t> pair(size_t(rows) * 2 * depth);
    for (int i = 0; i < rows; ++i)
        for (int c = 0; c < cols; ++c) {
            const uint16_t high = store(Mode::kHalf, m.at(i, c));
            pair[size_t(i) * 2 * depth + c] = high;
            pair[size_t(i) * 2 * depth + depth + c] = store(Mode::kHalf, m.at(i, c) - stored(Mode::kHalf, high));
        }
    auto joined = poisoned<float>(size_t(rows) * cols), back = joined;
    auto exact = poisoned<double>(size_t(rows) * cols);
    run_items(rows, true, [&] { rows_cu::widen_rows_f16((half_t*)pair.data(), rows, cols, 2 * depth, depth, joined.data(), cols); });
    run_items(rows, true, [&] { rows_cu::rows_to_double(in.data(), rows, cols, cols, exact.data()); });
    run_items(rows, true, [&] { rows_cu::rows_to_float(exact.data(), rows, cols, back.data(), cols); });
    for (size_t i = 0; i < in.size(); ++i) {
        expect(joined[i], m.v[i], 3e-7, kSmallestHalf, "value and remainder");
        expect(exact[i], in[i], 0, 0, "double");
        expect(back[i], in[i], 0, 0, "float again");
    }
    // Rows in another order, one of them twice.
    const vector<int32_t> ids = {3, 0, 18, 3, 7};
    auto some = poisoned<float>(ids.size() * cols);
    auto narrow_some = poisoned<uint16_t>(ids.size() * 2 * depth);
    run_items(int64_t(ids.size()), true, [&] { rows_cu::gather_rows_b32((const uint32_t*)in.data(), ids.data(), int64_t(ids.size()), cols, (uint32_t*)some.data()); });
    run_items(int64_t(ids.size()), true, [&] { rows_cu::gather_rows_b16(pair.data(), ids.data(), int64_t(ids.size()), 2 * depth, narrow_some.data()); });
    for (size_t i = 0; i < ids.size(); ++i) {
        for (int c = 0; c < cols; ++c) expect(some[i * cols + c], in[size_t(ids[i]) * cols + c], 0, 0, "gathered");
        for (int c = 0; c < 2 * depth; ++c) expect_equal(narrow_some[i * 2 * depth + c], pair[size_t(ids[i]) * 2 * depth + c], "gathered");
    }
    // All similarities 0.
    vector<double> row(rows), sums(2 * cols);
    for (double& v : row) v = normal();
    for (double& v : sums) v = normal();
    auto flat = poisoned<float>(size_t(rows) * cols);
    run_items(rows, true, [&] { rows_cu::flat_rows(row.data(), sums.data(), rows, cols, flat.data()); });
    for (int i = 0; i < rows; ++i)
        for (int c = 0; c < cols; ++c) expect(flat[size_t(i) * cols + c], row[i] * sums[c] + sums[cols + c], 1e-7, 1e-9, "flat");

    context = "reduce";
    const int parts = 3;
    const int64_t per_part = (rows + parts - 1) / parts;
    auto partial = poisoned<double>(size_t(parts) * cols);
    auto column = poisoned<double>(cols);
    for (const bool weighted : {false, true}) {
        run({1, unsigned(parts), 1}, 0, [&] { reduce_cu::column_sums(in.data(), weighted ? row.data() : nullptr, rows, cols, cols, per_part, partial.data()); });
        run_items(cols, false, [&] { reduce_cu::merge_doubles(partial.data(), parts, cols, column.data(), 0); });
        for (int c = 0; c < cols; ++c) {
            double want = 0;
            for (int i = 0; i < rows; ++i) want += (weighted ? row[i] : 1.0) * in[size_t(i) * cols + c];
            expect(column[c], want, 1e-12, 1e-12, "column sum");
        }
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

    // The same with all digits of the values and remainders, which only the split layout has.
    if (mode == Mode::kSplit) {
        auto product = poisoned<double>(size_t(pairs));
        run_items(pairs, true, [&] { rows_cu::pair_products_f16(p.view(false), row.data(), p.positives.columns.data(), pairs, product.data()); });
        for (int64_t e = 0; e < pairs; ++e) {
            double want = 0;
            for (int c = 0; c < p.depth; ++c)
                want += value_of(mode, p.zx, row[e], c, p.depth) * value_of(mode, p.zy, p.positives.columns[e], c, p.depth);
            expect(product[e], want, 0, 1e-14, "pair product");
        }
    }

    // out <- 0.5 out + 2 sum c v over the columns from `first` on, the rows in another order.
    const int width = 35, depth = 40, first = ny / 3;
    const Matrix v = random_matrix(ny, width), before = random_matrix(nx, width);
    vector<uint16_t> values(size_t(ny) * 2 * depth);
    for (int j = 0; j < ny; ++j)
        for (int c = 0; c < width; ++c) {
            values[size_t(j) * 2 * depth + c] = store(mode, v.at(j, c));
            values[size_t(j) * 2 * depth + depth + c] = store(mode, v.at(j, c) - stored(mode, store(mode, v.at(j, c))));
        }
    const vector<float> wide(v.v.begin(), v.v.end());
    vector<float> coefficient(pairs);
    for (float& c : coefficient) c = float(normal());
    vector<int32_t> order(nx);
    for (int i = 0; i < nx; ++i) order[i] = (i * 7 + 3) % nx;
    if (nx % 7 == 0) std::reverse(order.begin(), order.end());
    for (const int kind : {0, 1, 2}) {  // fp32 values, 16-bit values, 16-bit values with remainders
        vector<float> out(before.v.begin(), before.v.end());
        run_items(nx - 1, true, [&] {  // from row 1 on
            using namespace rows_cu;
            const Csr csr = p.positives.view();
            float* to = out.data() + width;
            const uint16_t* from = values.data() + size_t(first) * 2 * depth;
            const int remainder = kind == 2 ? depth : 0;
            if (kind == 0)
                add_entries_f32(csr, coefficient.data(), wide.data() + size_t(first) * width, width, 0, 2, order.data(), 1, nx - 1, first, ny, width, 0.5f, to, width);
            else if (bf16)
                add_entries_bf16(csr, coefficient.data(), (const bf16_t*)from, 2 * depth, remainder, 2, order.data(), 1, nx - 1, first, ny, width, 0.5f, to, width);
            else
                add_entries_f16(csr, coefficient.data(), (const half_t*)from, 2 * depth, remainder, 2, order.data(), 1, nx - 1, first, ny, width, 0.5f, to, width);
        });
        for (int i = 1; i < nx; ++i)
            for (int c = 0; c < width; ++c) {
                double want = 0.5 * float(before.at(i, c)), size = std::fabs(want);
                for (int64_t e = p.positives.offsets[order[i]]; e < p.positives.offsets[order[i] + 1]; ++e) {
                    const int j = p.positives.columns[e];
                    if (j < first) continue;
                    const double value = kind == 0 ? wide[size_t(j) * width + c]
                                         : kind == 1 ? stored(mode, values[size_t(j) * 2 * depth + c])
                                                     : value_of(mode, values, j, c, depth);
                    want += 2.0 * coefficient[e] * value;
                    size += std::fabs(2.0 * coefficient[e] * value);
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
    const size_t plane = size_t(l.row_parts()) * nx;
    auto parts = poisoned<int32_t>(3 * plane), count = poisoned<int32_t>(3 * nx);
    const Ranks ranks{l.sweep, best.data(), best_index.data(), parts.data()};
    run(l.grid, l.shared, [&] { bf16 ? search_cu::ranks_bf16(ranks) : search_cu::ranks_f16(ranks); });
    for (int c = 0; c < 3; ++c)
        run_items(nx, false, [&] { reduce_cu::merge_counts(parts.data() + c * plane, l.row_parts(), nx, count.data() + c * nx); });
    for (int i = 0; i < nx; ++i) {
        if (p.positives.count(i) == 0) {
            for (int c = 0; c < 3; ++c) expect_equal(count[c * nx + i], 0, "counts without positives");
            continue;
        }
        int above = 0, tied = 0, before = 0;
        bool close = false;
        const double b = p.s.at(i, best_index[i]);
        for (int j = 0; j < ny; ++j) {
            if (p.positives.contains(i, j)) continue;
            const double s = p.s.at(i, j);
            if (s == b) ++tied, before += j < best_index[i];
            else above += s > b, close |= std::fabs(s - b) < 4e-6;
        }
        if (close) continue;
        expect_equal(count[i], above, "columns above");
        expect_equal(count[nx + i], tied, "columns as similar");
        expect_equal(count[2 * nx + i], before, "lower columns as similar");
    }
}

double kernel_value(int kind, double dot, double a, double b, double parameter, double clamp) {
    if (kind == 0) return dot;
    const double squared = std::max(a + b - 2 * dot, 0.0);
    if (kind == 5) return std::exp(-parameter * squared);
    if (kind == 6) return (1 + std::sqrt(3 * (squared + 1e-12)) / parameter) * std::exp(-std::sqrt(3 * (squared + 1e-12)) / parameter);
    const double lengths = std::sqrt(a) * std::sqrt(b), ratio = lengths == 0 ? 0 : dot / lengths;
    const double c = std::min(std::max(ratio, -clamp), clamp);
    if (kind == 1) return c;
    if (kind == 2) return 1 - std::acos(c) / M_PI;
    if (kind == 3) return (std::sin(std::acos(c)) + (M_PI - std::acos(c)) * c) / M_PI;
    return std::exp(parameter * c);
}

void gram() {
    context = "gram";
    const double tolerance = 1e-14;
        const int rows = 13, cols = 29, d = 17, ld = 31;
    Matrix x = random_matrix(rows, d), y = random_matrix(cols, d);
    for (int c = 0; c < d; ++c) x.at(2, c) = 0, y.at(5, c) = x.at(4, c), y.at(6, c) = -x.at(4, c);
    const vector<double>&xf = x.v, &yf = y.v;
    auto a = poisoned<double>(rows), b = poisoned<double>(cols);
    run_items(rows, true, [&] { gram_cu::row_squares(xf.data(), rows, d, d, a.data()); });
    run_items(cols, true, [&] { gram_cu::row_squares(yf.data(), cols, d, d, b.data()); });
    for (int kind = 0; kind < 7; ++kind)
        for (const double clamp : {1.0, 1.0 - 1e-5}) {
            vector<double> k(size_t(rows) * ld);
            for (int i = 0; i < rows; ++i)
                for (int j = 0; j < cols; ++j) {
                    double dot = 0;
                    for (int c = 0; c < d; ++c) dot += xf[i * d + c] * yf[j * d + c];
                    k[size_t(i) * ld + j] = dot;
                }
            const vector<double> dots = k;
            run({2, 1, 1}, 0, [&] { gram_cu::kernel_values(kind, k.data(), rows, cols, ld, a.data(), b.data(), 0.3, clamp); });
            for (int i = 0; i < rows; ++i)
                for (int j = 0; j < cols; ++j) {
                    // Where the value has a square-root singularity (equal or opposite points) the rounding of the
                    // inner product comes out as its root.
                    const bool singular = (j == 5 || j == 6) && i == 4;
                    expect(k[size_t(i) * ld + j], kernel_value(kind, dots[size_t(i) * ld + j], a[i], b[j], 0.3, clamp), tolerance, singular ? 30 * std::sqrt(tolerance) : tolerance * 30, "kernel " + std::to_string(kind));
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
    gram();
}
