// Views of every layout give the right embeddings or are refused; copies of handles are safe, in any order of destruction.

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include <unicon.hpp>

#if __has_include(<Eigen/Core>)
#include <Eigen/Core>
#define WITH_EIGEN 1
#endif

#define CHECK(what) \
    do { \
        if (!(what)) { \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
            std::exit(1); \
        } \
    } while (0)

namespace {

constexpr int64_t n = 20, d = 5, r = 3;

/** What Eigen's matrices, maps and blocks are to a view. */
template <class T, bool by_rows> struct Like {
    static constexpr bool IsRowMajor = by_rows;
    T *at;
    int64_t n_rows, n_cols, inner, outer;
    T *data() const { return at; }
    int64_t rows() const { return n_rows; }
    int64_t cols() const { return n_cols; }
    int64_t innerStride() const { return inner; }
    int64_t outerStride() const { return outer; }
};

/** What an mdspan is to a view. */
template <class T> struct Span {
    static constexpr size_t rank() { return 2; }
    T *at;
    int64_t extents[2], strides[2];
    T *data_handle() const { return at; }
    int64_t extent(size_t k) const { return extents[k]; }
    int64_t stride(size_t k) const { return strides[k]; }
};

float value(int64_t i, int64_t j) { return std::sin(static_cast<float>(1 + i * d + j)); }

/** Unit rows of F x, by definition, of rows first, first + step, ... */
std::vector<double> expected(const std::vector<double> &f, int64_t first, int64_t step, int64_t rows) {
    std::vector<double> z;
    for (int64_t k = 0; k < rows; k++) {
        double square = 0;
        const size_t begin = z.size();
        for (int64_t p = 0; p < r; p++) {
            double sum = 0;
            for (int64_t j = 0; j < d; j++) sum += f[static_cast<size_t>(p * d + j)] * static_cast<double>(value(first + k * step, j));
            z.push_back(sum);
            square += sum * sum;
        }
        for (size_t at = begin; at < z.size(); at++) z[at] /= std::sqrt(square);
    }
    return z;
}

struct Lab {
    unicon::Context context;
    unicon::Model model;
    std::vector<double> f;

    explicit Lab(const std::vector<double> &matrix)
        : model(unicon::Model::linear(context, unicon::view(matrix, d), unicon::view(matrix, d))), f(matrix) {}

    /** That a view of rows first, first + step, ... is encoded as those. */
    void right(const unicon::View &x, int64_t first = 0, int64_t step = 1) const {
        std::vector<double> z(static_cast<size_t>(x.rows() * r));
        model.encode(context, unicon::Side::x, x, unicon::view(z, r));
        const auto want = expected(f, first, step, x.rows());
        for (size_t k = 0; k < z.size(); k++) CHECK(std::fabs(z[k] - want[k]) < 1e-5);
    }

    void refused(const unicon::View &x, const char *text) const {
        std::vector<double> z(static_cast<size_t>(x.rows() * r), 7.0);
        try {
            model.encode(context, unicon::Side::x, x, unicon::view(z, r));
        } catch (const unicon::Error &e) {
            if (std::string(e.what()).find(text) == std::string::npos) std::fprintf(stderr, "%s\n", e.what());
            CHECK(std::string(e.what()).find(text) != std::string::npos);
            for (double v : z) CHECK(v == 7.0);
            return;
        }
        CHECK(!"refused");
    }
};

unicon::Model survivor() {
    unicon::Context context;
    const std::vector<float> f(static_cast<size_t>(r * d), 1.0f);
    const unicon::Model model = unicon::Model::linear(context, unicon::view(f, d), unicon::view(f, d));
    const unicon::Model copy = model;
    return copy;
}

void handles(const Lab &lab, std::vector<float> &x) {
    // Copies of a model share it, whichever goes first.
    unicon::Model model = survivor();
    {
        const unicon::Model other = model;
        model = other;
    }
    unicon::Model moved = std::move(model);
    CHECK(moved.r() == r && moved.d1() == d);
    const unicon::Context fresh;
    std::vector<float> z(static_cast<size_t>(n * r));
    moved.encode(fresh, unicon::Side::y, unicon::view(x, d), unicon::view(z, r));

    const std::vector<unsigned char> bytes = lab.model.to_bytes();
    CHECK(unicon::Model::from_bytes(bytes.data(), bytes.size()).to_bytes() == bytes);
    for (size_t size : {size_t(0), size_t(1), bytes.size() - 1}) {
        try {
            unicon::Model::from_bytes(bytes.data(), size);
            CHECK(!"refused");
        } catch (const unicon::Error &e) {
            CHECK(e.status() == UNICON_ERROR_BAD_FILE || (size == 0 && e.status() == UNICON_ERROR_INVALID_ARGUMENT));
        }
    }

    // What lives on a context outlives the object that it was made with, and says what is wrong.
    auto context = std::make_unique<unicon::Context>();
    std::vector<float> unit(static_cast<size_t>(n * r));
    lab.model.encode(*context, unicon::Side::x, unicon::view(x, d), unicon::view(unit, r));
    unicon::Weights weights(*context, unicon::Loss(), unicon::view(unit, r), unicon::view(unit, r));
    unicon::PartialFit partial(*context, unicon::FitOptions(2), d, d);
    context.reset();
    CHECK(weights.loss() > 0);
    std::vector<float> small(4);
    try {
        weights.apply(unicon::view(small, 2), unicon::view(small, 2));
        CHECK(!"refused");
    } catch (const unicon::Error &e) {
        CHECK(std::string(e.what()).find("expected") != std::string::npos);
    }
    CHECK(std::isfinite(partial.add(unicon::view(x, d), unicon::view(x, d))));
    CHECK(partial.finish().r() == 2);

    // Options that are copied and moved keep what they point to.
    unicon::BestOptions options(2);
    options.whiten({0.5, 0.1}).powers({0.5}).loss(unicon::Loss(unicon::LossKind::clip, 0.2));
    int seen = 0;
    options.progress([&](const unicon_progress_t &) { return ++seen > 0; });
    std::vector<unicon::BestOptions> several(3, options);
    several.push_back(std::move(options));
    const unicon::Context again;
    for (const auto &o : several) {
        const auto fitted = unicon::fit_best(again, o, unicon::view(x, d), unicon::view(x, d));
        CHECK(fitted.model.r() == 2 && std::fabs(fitted.info.tau - 0.2) < 1e-12);
    }
    CHECK(seen > 0);

    // A model in many threads, each with a context.
    std::vector<std::thread> threads;
    std::array<bool, 4> same{};
    for (size_t t = 0; t < same.size(); t++)
        threads.emplace_back([&, t, copy = lab.model] {
            const unicon::Context own;
            same[t] = true;
            for (int k = 0; k < 10; k++) {
                std::vector<float> z2(unit.size());
                copy.encode(own, unicon::Side::x, unicon::view(x, d), unicon::view(z2, r));
                same[t] = same[t] && z2 == unit;
            }
        });
    for (auto &t : threads) t.join();
    for (bool s : same) CHECK(s);

    // A loss whose kind is changed has the nu of that kind.
    unicon::Loss changed(unicon::LossKind::clip, 0.2);
    changed.kind = UNICON_LOSS_SIGMOID;
    const auto loss_of = [&](const unicon::Loss &loss) {
        return unicon::Weights(again, loss, unicon::view(unit, r), unicon::view(unit, r)).loss();
    };
    unicon::Loss set(unicon::LossKind::sigmoid, 0.2);
    CHECK(loss_of(changed) == loss_of(set));
    set.nu = 1.5;
    CHECK(loss_of(changed) == loss_of(set));
    set.nu = 1.0;
    CHECK(loss_of(changed) != loss_of(set));
    for (double nu : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
        set.nu = nu;
        try {
            loss_of(set);
            CHECK(!"refused");
        } catch (const unicon::Error &e) {
            CHECK(e.status() == UNICON_ERROR_INVALID_ARGUMENT);
        }
    }
}

/** What options hold, what reports have, and what is warned of. */
void asked(const std::vector<float> &x) {
    const auto v = unicon::view(x, d);
    std::vector<std::string> told;
    unicon::Context context([&](const std::string &text) { told.push_back(text); });
    unicon::FitOptions options(2);
    options->n_iters = 1;
    options->final_loss = 0;
    const unicon::FitResult plain = unicon::fit(context, options, v, v);
    CHECK(told.empty() && plain.info.outcome == unicon::Outcome::completed && plain.info.n_iters == 1);
    CHECK(!plain.info.final_loss && !plain.info.whiten && !plain.info.returned && !plain.info.held_apart && plain.info.trace.empty());
    CHECK(plain.info.distinct_x == n && plain.info.loss.size() == 1 && plain.info.singular_values.size() == static_cast<size_t>(d));

    // Validation pairs and a warm start are part of the options, and of copies that outlive what they were set from.
    unicon::FitOptions held(2);
    {
        const unicon::Model start = plain.model;
        held.validation({v, v, unicon::Positives::diagonal()}).warm_start(start).refine(unicon::Refine());
    }
    held->n_iters = 0;
    const unicon::FitOptions twin = held;
    const unicon::FitInfo refined = unicon::fit(context, twin, v, v).info;
    CHECK(refined.final_loss && !refined.trace.empty() && refined.trace[0].score && !refined.trace[0].sampling_error);
    CHECK(unicon::fit_workspace(context, options, unicon::Sizes(n, n, d, d)) > 0);
    CHECK(unicon::fit_best_workspace(context, unicon::BestOptions(2), unicon::Sizes(n, n, d, d)) > 0);

    // A row of zeros is warned of; what the function for warnings throws the call throws, and the next call is another.
    std::vector<float> zero = x;
    for (int64_t j = 0; j < d; j++) zero[static_cast<size_t>(j)] = 0;
    told.clear();
    unicon::fit(context, options, unicon::view(zero, d), v);
    CHECK(told.size() == 1 && told[0].find("zero") != std::string::npos);
    struct Stop {};
    unicon::Context strict([](const std::string &) { throw Stop(); });
    bool stopped = false;
    try {
        unicon::fit(strict, options, unicon::view(zero, d), v);
    } catch (const Stop &) {
        stopped = true;
    }
    CHECK(stopped && unicon::fit(strict, options, v, v).model.r() == 2);

    // A cancellation ends one call, unless it is taken back.
    strict.cancel();
    try {
        unicon::fit(strict, options, v, v);
        CHECK(!"cancelled");
    } catch (const unicon::Error &e) {
        CHECK(e.status() == UNICON_ERROR_CANCELLED);
    }
    CHECK(unicon::fit(strict, options, v, v).model.r() == 2);
    strict.cancel();
    strict.cancel_clear();
    CHECK(unicon::fit(strict, options, v, v).model.r() == 2);

    // Sampled negatives are those of the seed, in weights and gradients.
    std::vector<float> z(static_cast<size_t>(n * 2)), dx(z.size()), dy(z.size());
    plain.model.encode(context, unicon::Side::x, v, unicon::view(z, 2));
    const auto e = unicon::view(z, 2);
    const auto loss = [&](const unicon::Sampling &s) { return unicon::Weights(context, unicon::Loss(), e, e, unicon::Positives::diagonal(), s).loss(); };
    const auto gradient = [&](const unicon::Sampling &s) {
        return unicon::contrastive_grad(context, unicon::Loss(), e, e, unicon::view(dx, 2), unicon::view(dy, 2), unicon::Positives::diagonal(), s);
    };
    CHECK(loss({4, 1}) == loss({4, 1}) && loss({4, 1}) != loss({4, 2}) && loss({4, 1}) != loss({}));
    CHECK(std::fabs(gradient({4, 1}) - loss({4, 1})) < 1e-6 && std::fabs(gradient({}) - loss({})) < 1e-6);
    const unicon::Weights some(context, unicon::Loss(), e, e, unicon::Positives::groups(std::vector<int64_t>(n, 1), [] {
        std::vector<int64_t> ids(n, 1);
        ids[3] = 2;
        return ids;
    }()));
    CHECK(some.unmatched() == std::make_pair(int64_t(0), int64_t(1)));
    const auto losses = some.losses();
    CHECK(std::fabs(losses.rows + losses.cols - losses.value) < 1e-9);
}

#ifdef WITH_EIGEN
using ByRows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void eigen(const Lab &lab, const std::vector<float> &flat) {
    using Eigen::Dynamic;
    const Eigen::Map<const ByRows> map(flat.data(), n, d);
    const Eigen::MatrixXf columns = map;
    const ByRows rows = map;
    const Eigen::MatrixXd wide = columns.cast<double>();
    lab.right(unicon::view(map));
    lab.right(unicon::view(columns));
    lab.right(unicon::view(rows));
    lab.right(unicon::view(wide));
    for (int64_t i : {0, 7, 19}) {
        const auto row = columns.row(i);
        lab.right(unicon::view(row), i);
        const auto of_rows = rows.row(i);
        lab.right(unicon::view(of_rows), i);
    }
    const auto part = columns.middleRows(4, 6);
    const auto top = rows.topRows(3);
    const auto block = rows.block(5, 0, 7, d);
    lab.right(unicon::view(part), 4);
    lab.right(unicon::view(top));
    lab.right(unicon::view(block), 5);
    const Eigen::Map<const ByRows, 0, Eigen::OuterStride<>> every(flat.data(), n / 2, d, Eigen::OuterStride<>(2 * d));
    lab.right(unicon::view(every), 0, 2);
    const Eigen::Map<const Eigen::MatrixXf, 0, Eigen::Stride<Dynamic, Dynamic>> across(
        flat.data(), n, d, Eigen::Stride<Dynamic, Dynamic>(1, d));
    lab.right(unicon::view(across));
    // Every other column: no stride is one.
    std::vector<float> doubled(flat.size() * 2);
    for (size_t k = 0; k < flat.size(); k++) doubled[2 * k] = flat[k];
    const Eigen::Map<const ByRows, 0, Eigen::Stride<Dynamic, 2>> apart(doubled.data(), n, d, Eigen::Stride<Dynamic, 2>(2 * d, 2));
    lab.refused(unicon::view(apart), "stride");
    const Eigen::Map<const ByRows, 0, Eigen::InnerStride<>> inner(doubled.data(), 1, d, Eigen::InnerStride<>(2));
    lab.right(unicon::view(inner));

    // Outputs of both orders, and into a block.
    Eigen::MatrixXf z(n, r);
    ByRows by_rows(n, r), large = ByRows::Zero(n, r + 4);
    lab.model.encode(lab.context, unicon::Side::x, unicon::view(map), unicon::view(z));
    lab.model.encode(lab.context, unicon::Side::x, unicon::view(map), unicon::view(by_rows));
    auto middle = large.middleCols(2, r);
    lab.model.encode(lab.context, unicon::Side::x, unicon::view(map), unicon::view(middle));
    CHECK(z == by_rows && large.middleCols(2, r) == z && large.leftCols(2).isZero() && large.rightCols(2).isZero());
    static_assert(std::is_same<decltype(unicon::view(z)), unicon::MutableView>::value, "a matrix may be written");
    static_assert(std::is_same<decltype(unicon::view(map)), unicon::View>::value, "constant memory may not");
    static_assert(std::is_same<decltype(unicon::view(columns)), unicon::View>::value, "a constant matrix may not");
    std::puts("with Eigen");
}
#else
void eigen(const Lab &, const std::vector<float> &) { std::puts("skipped: Eigen not found; get it with apt-get install libeigen3-dev"); }
#endif

} // namespace

// The paper's preset is that of kernels where one is set before it.
static void presets() {
    unicon::detail::Scratch scratch;
    unicon::FitOptions before(10), linear(10);
    before.kernel(unicon::Kernel(unicon::KernelKind::angular)).preset(UNICON_PRESET_PAPER);
    linear.preset(UNICON_PRESET_PAPER);
    const unicon_fit_options_t kernel = before.get(scratch);
    CHECK(kernel.n_iters == 10 && kernel.tol == 1e-3 && kernel.kernel && kernel.n_landmarks == UNICON_LANDMARKS_ALL);
    CHECK(linear.get(scratch).n_iters == 1 && !linear.get(scratch).kernel);
}

int main() {
    presets();
    std::vector<double> f;
    for (int64_t k = 0; k < r * d; k++) f.push_back(std::cos(3.0 * static_cast<double>(k)));
    const Lab lab(f);
    std::vector<float> by_rows, by_cols(static_cast<size_t>(n * d)), doubled(static_cast<size_t>(2 * n * d));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++) {
            by_rows.push_back(value(i, j));
            by_cols[static_cast<size_t>(j * n + i)] = value(i, j);
            doubled[static_cast<size_t>(2 * (i * d + j))] = value(i, j);
        }
    float *const rows = by_rows.data(), *const cols = by_cols.data();
    lab.right(unicon::view(by_rows, d));
    lab.right(unicon::view(rows, n, d));
    lab.right(unicon::view(cols, n, d, 1, n));
    lab.right(unicon::view(cols, d, n).transposed());
    Like<float, true> a{rows, n, d, 1, d}, every{rows, n / 2, d, 1, 2 * d}, spaced{doubled.data(), n, d, 2, 2 * d};
    Like<float, false> b{cols, n, d, 1, n}, turned{rows, n, d, d, 1};
    Like<const float, true> row{cols + 7, 1, d, n, 1};
    lab.right(unicon::view(a));
    lab.right(unicon::view(b));
    lab.right(unicon::view(every), 0, 2);
    lab.right(unicon::view(turned));
    lab.right(unicon::view(row), 7);
    lab.right(unicon::view(Span<float>{rows, {n, d}, {d, 1}}));
    lab.right(unicon::view(Span<const float>{cols, {n, d}, {1, n}}));
    lab.right(unicon::view(Span<float>{rows, {n / 2, d}, {2 * d, 1}}), 0, 2);
    lab.refused(unicon::view(Span<float>{doubled.data(), {n, d}, {2 * d, 2}}), "stride");
    static_assert(std::is_same<decltype(unicon::view(Span<float>{})), unicon::MutableView>::value, "a span that may be written");
    static_assert(std::is_same<decltype(unicon::view(Span<const float>{})), unicon::View>::value, "one that may not");
    lab.right(unicon::view(rows, 0, d));
    lab.refused(unicon::view(spaced), "stride");
    Like<float, true> backwards{rows + (n - 1) * d, n, d, 1, -d};
    lab.refused(unicon::view(backwards), "stride");
    lab.refused(unicon::view(rows, n, d - 1), "columns");
    static_assert(std::is_same<decltype(unicon::view(row)), unicon::View>::value, "constant data may not be written");
    static_assert(std::is_same<decltype(unicon::view(a)), unicon::MutableView>::value, "other data may");
    static_assert(!std::is_convertible<unicon::View, unicon::MutableView>::value, "a view to read is no output");
    static_assert(!std::is_copy_constructible<unicon::Context>::value && !std::is_copy_constructible<unicon::Weights>::value
                      && !std::is_copy_constructible<unicon::PartialFit>::value && !std::is_copy_constructible<unicon::Items>::value
                      && !std::is_copy_constructible<unicon::Report>::value,
                  "these move only");
    static_assert(std::is_nothrow_move_constructible<unicon::Context>::value && std::is_nothrow_move_constructible<unicon::Weights>::value
                      && std::is_nothrow_move_constructible<unicon::PartialFit>::value
                      && std::is_nothrow_move_constructible<unicon::Items>::value,
                  "and do so without fail");
    const std::array<float, 4> four{1, 2, 3, 4};
    CHECK(unicon::view(four, 2).rows() == 2);
    for (int64_t wrong : {0, -1, 3}) {
        try {
            unicon::view(four, wrong);
            CHECK(!"refused");
        } catch (const unicon::Error &e) {
            CHECK(e.status() == UNICON_ERROR_INVALID_ARGUMENT);
        }
    }
    handles(lab, by_rows);
    asked(by_rows);
    eigen(lab, by_rows);
    std::puts("views and handles");
    return 0;
}
