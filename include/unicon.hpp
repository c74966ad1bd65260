/**
 * @file unicon.hpp
 * @brief UniCon for C++17: RAII handles, exceptions and matrix views over unicon.h. Header only.
 *
 * @code{.cpp}
 * unicon::Context context;
 * std::vector<float> x = ..., y = ...;                     // n by 512 and n by 384, row-major
 * unicon::FitOptions options(128);
 * unicon::Model model = unicon::fit(context, options, unicon::view(x, 512), unicon::view(y, 384)).model;
 * std::vector<float> z(n * model.r());
 * model.encode(context, unicon::Side::x, unicon::view(x, 512), unicon::view(z, model.r()));
 * @endcode
 *
 * - Every failure is a unicon::Error that carries the status and the text.
 * - Contexts, weights and partial fits move and do not copy; copies of a model share its encoders. All are destroyed with the last of
 *   their scopes, in any order.
 * - Views borrow. view() makes one from a pointer, from a std::vector (or anything with data() and size()), or from an
 *   Eigen-like matrix, map or block (data(), rows(), cols(), innerStride(), outerStride(), IsRowMajor) in either order, without a copy.
 *   Both strides are kept: a layout that the library cannot read is an error of the call. Of constant data it is a View, which
 *   no function takes as an output; of other data a MutableView.
 * - The option types are those of unicon.h with constructors; all their fields and their documentation are there.
 */
#ifndef UNICON_HPP
#define UNICON_HPP

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "unicon.h"

namespace unicon {

/** A failed call: its status and its text. */
class Error : public std::runtime_error {
public:
    Error(unicon_status_t status, const std::string &text)
        : std::runtime_error(describe(unicon_status_string(status), text)), status_(status) {}
    unicon_status_t status() const noexcept { return status_; }

private:
    // Some texts begin with the name of their status.
    static std::string describe(const std::string &name, const std::string &text) {
        return text.compare(0, name.size(), name) == 0 ? text : name + ": " + text;
    }
    unicon_status_t status_;
};

/** The text of the last failure on a context (or, for NULL, of this thread). */
inline std::string last_error(const unicon_context_t *context) {
    std::string text(unicon_last_error(context, nullptr, 0) + 1, '\0');
    const size_t length = unicon_last_error(context, &text[0], text.size());
    text.resize(length < text.size() ? length : text.size() - 1);
    return text;
}

namespace detail {
inline void check(unicon_status_t status, const unicon_context_t *context) {
    if (status != UNICON_OK) throw Error(status, last_error(context));
}
template <class T, void (*destroy)(T *)> struct Destroy {
    void operator()(T *handle) const noexcept { destroy(handle); }
};
template <class T, void (*destroy)(T *)> using Handle = std::unique_ptr<T, Destroy<T, destroy>>;
/** A context that what lives on it keeps. */
using SharedContext = std::shared_ptr<unicon_context_t>;
} // namespace detail

/** @name Views */
/** @{ */

/** The ::unicon_dtype of an element type; specialise it for a half or bfloat16 type of your own. */
template <class T> struct dtype_of {
    static_assert(sizeof(T) == 0, "unicon: matrices of float or double; specialise unicon::dtype_of for a half or bfloat16 type");
    static constexpr int32_t value = 0;
};
template <> struct dtype_of<float> : std::integral_constant<int32_t, UNICON_F32> {};
template <> struct dtype_of<double> : std::integral_constant<int32_t, UNICON_F64> {};

/** A borrowed matrix to read. Converts to the pointer that unicon.h takes. */
class View {
public:
    View(const unicon_matrix_t &matrix) : matrix_(matrix) {}
    int64_t rows() const noexcept { return matrix_.rows; }
    int64_t cols() const noexcept { return matrix_.cols; }
    const unicon_matrix_t *get() const noexcept { return &matrix_; }
    /** The same memory read as its transpose. */
    View transposed() const { return View(swapped()); }

protected:
    unicon_matrix_t swapped() const {
        unicon_matrix_t m = matrix_;
        std::swap(m.rows, m.cols);
        std::swap(m.row_stride, m.col_stride);
        return m;
    }

private:
    unicon_matrix_t matrix_;
};

/** A borrowed matrix to write to, or to read. */
class MutableView : public View {
public:
    explicit MutableView(const unicon_matrix_t &matrix) : View(matrix) {}
    /** The same memory as its transpose. */
    MutableView transposed() const { return MutableView(swapped()); }
};

/** The view of memory of that type: a View of constant elements. */
template <class T> using view_of = std::conditional_t<std::is_const<T>::value, View, MutableView>;

/** Memory with given strides, in elements. */
template <class T> view_of<T> view(T *data, int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride) {
    unicon_matrix_t m = unicon_matrix_host(data, rows, cols, dtype_of<std::remove_cv_t<T>>::value);
    m.row_stride = row_stride;
    m.col_stride = col_stride;
    return view_of<T>(m);
}

/** Row-major memory. */
template <class T> view_of<T> view(T *data, int64_t rows, int64_t cols) { return view(data, rows, cols, cols, 1); }

namespace detail {
template <class C> using element_of = std::remove_pointer_t<decltype(std::declval<C &>().data())>;
} // namespace detail

/** A row-major std::vector, std::array or span of rows of `cols` values. */
template <class C, class = decltype(std::declval<C &>().size()),
          class = std::enable_if_t<std::is_pointer<decltype(std::declval<C &>().data())>::value>>
view_of<detail::element_of<C>> view(C &values, int64_t cols) {
    const int64_t size = static_cast<int64_t>(values.size());
    if (cols < 1 || size % cols != 0)
        throw Error(UNICON_INVALID_ARGUMENT, "cols: expected a divisor of the " + std::to_string(size)
                                                 + " values, got " + std::to_string(cols));
    return view(values.data(), size / cols, cols);
}

/** An Eigen matrix, map or block, or anything that looks like one, row-major or column-major. Name a block before: it must not be
 *  the result of an expression that has ended when the view is used. */
template <class M, class = decltype(std::declval<M &>().outerStride()), class = decltype(std::declval<M &>().innerStride()),
          class = decltype(std::declval<M &>().data())>
view_of<detail::element_of<M>> view(M &matrix) {
    const int64_t outer = static_cast<int64_t>(matrix.outerStride()), inner = static_cast<int64_t>(matrix.innerStride());
    const bool by_rows = static_cast<bool>(std::remove_reference_t<M>::IsRowMajor);
    return view(matrix.data(), static_cast<int64_t>(matrix.rows()), static_cast<int64_t>(matrix.cols()),
                by_rows ? outer : inner, by_rows ? inner : outer);
}

/** @} */
/** @name What is asked */
/** @{ */

enum class LossKind : int32_t {
    clip = UNICON_LOSS_CLIP,
    sigmoid = UNICON_LOSS_SIGMOID,
    triplet_hard = UNICON_LOSS_TRIPLET_HARD,
    triplet_smooth = UNICON_LOSS_TRIPLET_SMOOTH,
    custom = UNICON_LOSS_CUSTOM
};

enum class KernelKind : int32_t {
    linear = UNICON_KERNEL_LINEAR,
    cosine = UNICON_KERNEL_COSINE,
    angular = UNICON_KERNEL_ANGULAR,
    arccos = UNICON_KERNEL_ARCCOS,
    exp_cosine = UNICON_KERNEL_EXP_COSINE,
    rbf = UNICON_KERNEL_RBF,
    matern32 = UNICON_KERNEL_MATERN32
};

/** What a stream of batches is summed up in. */
enum class Stream : int32_t { sums = UNICON_STREAM_SUMS, solutions = UNICON_STREAM_SOLUTIONS };

enum class Side : int32_t { x = UNICON_SIDE_X, y = UNICON_SIDE_Y };

/** ::unicon_loss_t with the defaults of a kind. The value and gradients of clip are tau times those of open_clip. */
struct Loss : unicon_loss_t {
    explicit Loss(LossKind kind = LossKind::clip) : unicon_loss_t() {
        detail::check(unicon_loss_init(this, sizeof(unicon_loss_t), static_cast<int32_t>(kind)), nullptr);
    }
    Loss(LossKind kind, double temperature) : Loss(kind) { tau = temperature; }
    /** A psi and a phi of one's own; the struct and what it points to must outlive the loss, and weights and streams made of it. */
    explicit Loss(const unicon_family_t &functions) : Loss(LossKind::custom) { family = &functions; }
};

/** ::unicon_kernel_t with the defaults of a kind. */
struct Kernel : unicon_kernel_t {
    explicit Kernel(KernelKind kind) : unicon_kernel_t() {
        detail::check(unicon_kernel_init(this, sizeof(unicon_kernel_t), static_cast<int32_t>(kind)), nullptr);
    }
};

/** Which pairs match; owns its arrays. */
class Positives {
public:
    /** x_i matches y_i. */
    static Positives diagonal() { return Positives(UNICON_POSITIVES_DIAGONAL); }
    /** x_i matches y_j where the ids are equal. */
    static Positives groups(std::vector<int64_t> x, std::vector<int64_t> y) {
        Positives p(UNICON_POSITIVES_GROUPS);
        p.a_ = std::move(x);
        p.b_ = std::move(y);
        return p;
    }
    /** x_i matches indices[indptr[i] .. indptr[i + 1]]. */
    static Positives csr(std::vector<int64_t> indptr, std::vector<int64_t> indices) {
        Positives p(UNICON_POSITIVES_CSR);
        p.a_ = std::move(indptr);
        p.b_ = std::move(indices);
        return p;
    }
    /** The view that unicon.h takes for n_x by n_y features; it borrows from this object. */
    unicon_positives_t get(int64_t n_x, int64_t n_y) const {
        unicon_positives_t p;
        detail::check(unicon_positives_init(&p, sizeof p), nullptr);
        p.kind = kind_;
        if (kind_ == UNICON_POSITIVES_GROUPS) {
            expect("x groups", a_.size(), n_x);
            expect("y groups", b_.size(), n_y);
            p.x_groups = a_.data();
            p.y_groups = b_.data();
        } else if (kind_ == UNICON_POSITIVES_CSR) {
            expect("indptr", a_.size(), n_x + 1);
            p.indptr = a_.data();
            p.indices = b_.data();
            p.nnz = static_cast<int64_t>(b_.size());
        }
        return p;
    }

private:
    explicit Positives(int32_t kind) : kind_(kind) {}
    static void expect(const char *name, size_t got, int64_t expected) {
        if (static_cast<int64_t>(got) != expected)
            throw Error(UNICON_INVALID_ARGUMENT, std::string(name) + ": expected " + std::to_string(expected)
                                                     + " values, got " + std::to_string(got));
    }
    int32_t kind_;
    std::vector<int64_t> a_, b_;
};

/** Return false to cancel. An exception cancels too, and is thrown on by fit(). */
using Progress = std::function<bool(const unicon_progress_t &)>;

/** ::unicon_damping_t with its defaults. */
struct Damping : unicon_damping_t {
    Damping() : unicon_damping_t() { detail::check(unicon_damping_init(this, sizeof(unicon_damping_t)), nullptr); }
};

/** ::unicon_refine_t with its defaults; `stages` are set with a method of the options that take it. */
struct Refine : unicon_refine_t {
    Refine() : unicon_refine_t() { detail::check(unicon_refine_init(this, sizeof(unicon_refine_t)), nullptr); }
};

/** ::unicon_minibatch_t with its defaults. */
struct Minibatch : unicon_minibatch_t {
    Minibatch() : unicon_minibatch_t() { detail::check(unicon_minibatch_init(this, sizeof(unicon_minibatch_t)), nullptr); }
};

namespace detail {
/** Calls a progress function from C, and keeps what it throws. */
struct Call {
    const Progress *progress = nullptr;
    std::exception_ptr *thrown = nullptr;
    static int32_t run(const unicon_progress_t *progress, void *user) {
        const Call *call = static_cast<const Call *>(user);
        try {
            return (*call->progress)(*progress) ? 0 : 1;
        } catch (...) {
            if (call->thrown) *call->thrown = std::current_exception();
            return 1;
        }
    }
};

/** A pointer to an optional value, NULL without one. */
template <class T> const T *pointer(const std::optional<T> &value) { return value ? &*value : nullptr; }

/** What both kinds of options keep: losses, kernels, landmarks, refinement, checkpoint, progress. `Self` is the class of options. */
template <class Self, class Raw> class Options {
public:
    /** All fields without a method of their own; see the struct in unicon.h. */
    Raw *operator->() noexcept { return &raw_; }
    const Raw *operator->() const noexcept { return &raw_; }
    Self &loss(const Loss &loss) { return loss_ = loss, self(); }
    /** The kernel of both sides. */
    Self &kernel(const Kernel &kernel) { return kernel_ = kernel, self(); }
    /** Rows to use as Nystrom reference points. */
    Self &landmarks(std::vector<int64_t> rows) { return landmarks_ = std::move(rows), self(); }
    Self &refine(const Refine &refine) { return refine_ = refine, self(); }
    /** Whether means are taken out of the features: a ::unicon_center. */
    Self &center(int32_t center) { return raw_.center = center, self(); }
    /** File that holds the state of a refinement. */
    Self &checkpoint(std::string path) { return checkpoint_ = std::move(path), self(); }
    Self &progress(Progress progress) { return progress_ = std::move(progress), self(); }

    /** The struct that unicon.h takes; it borrows from this object. `thrown` keeps what the progress function throws. */
    Raw get(std::exception_ptr *thrown) const {
        Raw raw = raw_;
        if (loss_) raw.loss = pointer(loss_);
        if (kernel_) raw.kernel = pointer(kernel_);
        if (refine_) raw.refine = pointer(refine_);
        if (!landmarks_.empty()) {
            raw.n_landmarks = static_cast<int64_t>(landmarks_.size());
            raw.landmarks = landmarks_.data();
        }
        if (!checkpoint_.empty()) raw.checkpoint = checkpoint_.c_str();
        if (progress_) {
            call_.progress = &progress_;
            call_.thrown = thrown;
            raw.progress = &Call::run;
            raw.progress_user = &call_;
        }
        return raw;
    }

protected:
    Raw raw_{};
    std::optional<Refine> refine_;

private:
    Self &self() noexcept { return static_cast<Self &>(*this); }
    std::optional<Loss> loss_;
    std::optional<Kernel> kernel_;
    std::vector<int64_t> landmarks_;
    std::string checkpoint_;
    Progress progress_;
    mutable Call call_;
};
} // namespace detail

/** ::unicon_fit_options_t; keeps what its pointers point to. */
class FitOptions : public detail::Options<FitOptions, unicon_fit_options_t> {
public:
    explicit FitOptions(int64_t r) {
        detail::check(unicon_fit_options_init(&raw_, sizeof raw_), nullptr);
        raw_.r = r;
    }
    FitOptions &preset(int32_t preset) {
        detail::check(unicon_fit_options_preset(&raw_, preset), nullptr);
        return *this;
    }
    FitOptions &damping(const Damping &damping) {
        damping_ = damping;
        return *this;
    }
    /** Refinement in stages of so many negatives per row, 0 for all. */
    FitOptions &stages(std::vector<int64_t> negatives) {
        stages_ = std::move(negatives);
        if (!refine_) refine_.emplace();
        return *this;
    }
    unicon_fit_options_t get(std::exception_ptr *thrown) const {
        unicon_fit_options_t raw = Options::get(thrown);
        if (damping_) raw.damping = detail::pointer(damping_);
        if (refine_ && !stages_.empty()) {
            staged_ = *refine_;
            staged_.stages = stages_.data();
            staged_.n_stages = static_cast<int64_t>(stages_.size());
            raw.refine = &staged_;
        }
        return raw;
    }

private:
    std::optional<Damping> damping_;
    std::vector<int64_t> stages_;
    mutable Refine staged_;
};

/** ::unicon_best_options_t; keeps what its pointers point to. */
class BestOptions : public detail::Options<BestOptions, unicon_best_options_t> {
public:
    /** Dimension `r`; 0 chooses it. */
    explicit BestOptions(int64_t r = 0) {
        detail::check(unicon_best_options_init(&raw_, sizeof raw_), nullptr);
        raw_.r = r;
        raw_.rank = r == 0 ? UNICON_RANK_AUTO : UNICON_RANK_FIXED;
    }
    /** Candidate shrinkages. */
    BestOptions &whiten(std::vector<double> candidates) {
        whiten_ = std::move(candidates);
        return *this;
    }
    BestOptions &minibatch(const Minibatch &minibatch) {
        minibatch_ = minibatch;
        return *this;
    }
    /** Candidate powers of the singular values. */
    BestOptions &powers(std::vector<double> candidates) {
        powers_ = std::move(candidates);
        return *this;
    }
    /** Candidate widths of rbf and matern kernels, in median distances. */
    BestOptions &widths(std::vector<double> candidates) {
        widths_ = std::move(candidates);
        return *this;
    }
    unicon_best_options_t get(std::exception_ptr *thrown) const {
        unicon_best_options_t raw = Options::get(thrown);
        if (!whiten_.empty()) {
            raw.whiten = whiten_.data();
            raw.n_whiten = static_cast<int64_t>(whiten_.size());
        }
        if (!powers_.empty()) {
            raw.powers = powers_.data();
            raw.n_powers = static_cast<int64_t>(powers_.size());
        }
        if (!widths_.empty()) {
            raw.widths = widths_.data();
            raw.n_widths = static_cast<int64_t>(widths_.size());
        }
        if (minibatch_) raw.minibatch = detail::pointer(minibatch_);
        return raw;
    }

private:
    std::optional<Minibatch> minibatch_;
    std::vector<double> whiten_, powers_, widths_;
};

/** @} */
/** @name Handles */
/** @{ */

/** A device with its stream, threads, allocator and communicator. One call at a time. Moves and does not copy. */
class Context {
public:
    Context() : Context(nullptr) {}
    explicit Context(const unicon_context_options_t &options) : Context(&options) {}
    Context(Context &&) = default;
    Context &operator=(Context &&) = default;
    /** The defaults, for a context with some fields changed. */
    static unicon_context_options_t options() {
        unicon_context_options_t o;
        detail::check(unicon_context_options_init(&o, sizeof o), nullptr);
        return o;
    }
    unicon_context_t *get() const noexcept { return handle_.get(); }
    void cancel() const noexcept { unicon_cancel(handle_.get()); }
    void check(unicon_status_t status) const { detail::check(status, handle_.get()); }
    const detail::SharedContext &shared() const noexcept { return handle_; }

private:
    explicit Context(const unicon_context_options_t *options) {
        unicon_context_t *handle = nullptr;
        detail::check(unicon_context_create(options, &handle), nullptr);
        handle_.reset(handle, unicon_context_destroy);
    }
    detail::SharedContext handle_;
};

/** A pair of encoders. Immutable; may be used by several threads at once, each with its context. Copies share it. */
class Model {
public:
    /** Takes the handle over. */
    explicit Model(unicon_model_t *handle) : handle_(handle, unicon_model_destroy) {
        description_.struct_size = sizeof description_;
        detail::check(unicon_model_describe(handle, &description_), nullptr);
    }
    static Model linear(const Context &context, const View &f1, const View &f2) {
        unicon_model_t *handle = nullptr;
        context.check(unicon_model_create_linear(context.get(), f1.get(), f2.get(), &handle));
        return Model(handle);
    }
    static Model load(const Context &context, const std::string &path) {
        unicon_model_t *handle = nullptr;
        context.check(unicon_model_load(context.get(), path.c_str(), &handle));
        return Model(handle);
    }
    /** A model from the bytes of to_bytes() or of a model file. */
    static Model from_bytes(const void *data, size_t size) {
        unicon_model_t *handle = nullptr;
        detail::check(unicon_model_from_bytes(data, static_cast<int64_t>(size), &handle), nullptr);
        return Model(handle);
    }
    /** The bytes that save() writes. */
    std::vector<unsigned char> to_bytes() const {
        int64_t size = 0;
        detail::check(unicon_model_to_bytes(handle_.get(), nullptr, 0, &size), nullptr);
        std::vector<unsigned char> bytes(static_cast<size_t>(size));
        detail::check(unicon_model_to_bytes(handle_.get(), bytes.data(), size, &size), nullptr);
        return bytes;
    }
    void save(const Context &context, const std::string &path) const {
        context.check(unicon_model_save(context.get(), handle_.get(), path.c_str()));
    }
    int64_t d1() const noexcept { return description_.d1; }
    int64_t d2() const noexcept { return description_.d2; }
    int64_t r() const noexcept { return description_.r; }
    const unicon_model_description_t &description() const noexcept { return description_; }
    void encode(const Context &context, Side side, const View &in, const MutableView &out) const {
        context.check(unicon_model_encode(context.get(), handle_.get(), static_cast<int32_t>(side), in.get(), out.get()));
    }
    void similarity(const Context &context, const View &x, const View &y, const MutableView &out) const {
        context.check(unicon_model_similarity(context.get(), handle_.get(), x.get(), y.get(), out.get()));
    }
    void encoder(const Context &context, Side side, const MutableView &out) const {
        context.check(unicon_model_encoder(context.get(), handle_.get(), static_cast<int32_t>(side), out.get()));
    }
    /** The bias, r by 1: see unicon_model_bias(). */
    void bias(const Context &context, Side side, const MutableView &out) const {
        context.check(unicon_model_bias(context.get(), handle_.get(), static_cast<int32_t>(side), out.get()));
    }
    const unicon_model_t *get() const noexcept { return handle_.get(); }

private:
    std::shared_ptr<unicon_model_t> handle_;
    unicon_model_description_t description_{};
};

/** S(gamma) of a batch as an operator. */
class Weights {
public:
    Weights(const Context &context, const Loss &loss, const View &zx, const View &zy,
            const Positives &positives = Positives::diagonal())
        : context_(context.shared()) {
        const unicon_positives_t p = positives.get(zx.rows(), zy.rows());
        unicon_weights_t *handle = nullptr;
        context.check(unicon_weights_create(context.get(), &loss, zx.get(), zy.get(), &p, &handle));
        handle_.reset(handle);
    }
    /** S of any matrix of cosines, for small n. */
    static Weights of_similarity(const Context &context, const Loss &loss, const View &similarity,
                                 const Positives &positives = Positives::diagonal()) {
        const unicon_positives_t p = positives.get(similarity.rows(), similarity.cols());
        Weights out(context.shared());
        unicon_weights_t *handle = nullptr;
        context.check(unicon_weights_create_similarity(context.get(), &loss, similarity.get(), &p, &handle));
        out.handle_.reset(handle);
        return out;
    }
    double loss() const {
        double value = 0;
        check(unicon_weights_loss(handle_.get(), &value, nullptr, nullptr));
        return value;
    }
    void dense(const MutableView &s) { check(unicon_weights_dense(handle_.get(), s.get())); }
    void apply(const View &v, const MutableView &sv) { check(unicon_weights_apply(handle_.get(), v.get(), sv.get())); }
    void apply_t(const View &u, const MutableView &stu) { check(unicon_weights_apply_t(handle_.get(), u.get(), stu.get())); }
    void cross(const View &x, const View &y, const MutableView &c) { check(unicon_weights_cross(handle_.get(), x.get(), y.get(), c.get())); }
    unicon_weights_t *get() const noexcept { return handle_.get(); }

private:
    explicit Weights(const detail::SharedContext &context) : context_(context) {}
    void check(unicon_status_t status) const { detail::check(status, context_.get()); }
    detail::SharedContext context_;
    detail::Handle<unicon_weights_t, unicon_weights_destroy> handle_;
};

/** @} */
/** @name Calls */
/** @{ */

/** Held-out pairs; borrows. */
struct Validation {
    View x, y;
    Positives positives = Positives::diagonal();
};

/** What a fit did. */
struct FitInfo {
    unicon_fit_info_t raw{};
    std::vector<double> loss, change, singular_values;
    std::vector<unicon_trace_point_t> trace;
};

struct FitResult {
    Model model;
    FitInfo info;
};

namespace detail {
/** Validation pairs as unicon.h takes them; borrows. */
struct HeldOut {
    explicit HeldOut(const Validation *validation) {
        if (!validation) return;
        positives = validation->positives.get(validation->x.rows(), validation->y.rows());
        raw = unicon_validation_t{validation->x.get(), validation->y.get(), &positives};
        given = true;
    }
    const unicon_validation_t *get() const noexcept { return given ? &raw : nullptr; }

private:
    unicon_positives_t positives{};
    unicon_validation_t raw{};
    bool given = false;
};

/** Either fit: `function` is unicon_fit() or unicon_fit_best(). */
template <class Options, class Function>
FitResult fit(Function function, const Context &context, const Options &options, const View &x, const View &y,
              const Positives &positives, const Validation *validation, const Model *warm_start) {
    constexpr size_t room = 4096; // points of the history that are kept
    std::exception_ptr thrown;
    const auto raw = options.get(&thrown);
    const unicon_positives_t p = positives.get(x.rows(), y.rows());
    const HeldOut held_out(validation);
    FitInfo info;
    check(unicon_fit_info_init(&info.raw, sizeof info.raw), nullptr);
    info.loss.resize(room);
    info.change.resize(room);
    info.trace.resize(room);
    info.singular_values.resize(static_cast<size_t>(x.cols() < y.cols() ? x.cols() : y.cols()));
    info.raw.loss = info.loss.data();
    info.raw.change = info.change.data();
    info.raw.history_capacity = info.raw.trace_capacity = static_cast<int64_t>(room);
    info.raw.trace = info.trace.data();
    info.raw.singular_values = info.singular_values.data();
    info.raw.singular_capacity = static_cast<int64_t>(info.singular_values.size());
    unicon_model_t *handle = nullptr;
    const unicon_status_t status = function(context.get(), &raw, x.get(), y.get(), &p, held_out.get(),
                                            warm_start ? warm_start->get() : nullptr, &handle, &info.raw);
    if (thrown) {
        unicon_model_destroy(handle);
        std::rethrow_exception(thrown);
    }
    context.check(status);
    const auto keep = [](auto &v, int64_t n) {
        if (n < static_cast<int64_t>(v.size())) v.resize(static_cast<size_t>(n));
    };
    keep(info.loss, info.raw.n_loss);
    keep(info.change, info.raw.n_change);
    keep(info.singular_values, info.raw.n_singular_values);
    keep(info.trace, info.raw.n_trace);
    info.raw.loss = info.raw.change = info.raw.singular_values = nullptr;
    info.raw.trace = nullptr;
    return FitResult{Model(handle), std::move(info)};
}
} // namespace detail

/** Fits encoders; see unicon_fit(). */
inline FitResult fit(const Context &context, const FitOptions &options, const View &x, const View &y,
                     const Positives &positives = Positives::diagonal(), const Validation *validation = nullptr,
                     const Model *warm_start = nullptr) {
    return detail::fit(unicon_fit, context, options, x, y, positives, validation, warm_start);
}

/** The fit that needs no tuning; see unicon_fit_best(). */
inline FitResult fit_best(const Context &context, const BestOptions &options, const View &x, const View &y,
                          const Positives &positives = Positives::diagonal(), const Validation *validation = nullptr,
                          const Model *warm_start = nullptr) {
    return detail::fit(unicon_fit_best, context, options, x, y, positives, validation, warm_start);
}

/** A fit whose batches arrive one by one; see unicon_partial_fit_create(). */
class PartialFit {
public:
    PartialFit(const Context &context, const FitOptions &options, int64_t d1, int64_t d2, Stream stream = Stream::sums,
               int32_t dtype = UNICON_F32, const Validation *validation = nullptr, const Model *warm_start = nullptr)
        : context_(context.shared()) {
        const unicon_fit_options_t raw = options.get(nullptr);
        const detail::HeldOut held_out(validation);
        unicon_partial_fit_t *handle = nullptr;
        context.check(unicon_partial_fit_create(context.get(), &raw, static_cast<int32_t>(stream), d1, d2, dtype, held_out.get(),
                                                warm_start ? warm_start->get() : nullptr, &handle));
        handle_.reset(handle);
    }
    /** Adds one batch. @return its loss before the update. */
    double add(const View &x, const View &y, const Positives &positives = Positives::diagonal()) {
        const unicon_positives_t p = positives.get(x.rows(), y.rows());
        double loss = 0;
        detail::check(unicon_partial_fit_add(handle_.get(), x.get(), y.get(), &p, &loss), context_.get());
        return loss;
    }
    /** The model of the batches of this pass so far. */
    Model model() {
        unicon_model_t *model = nullptr;
        detail::check(unicon_partial_fit_model(handle_.get(), &model), context_.get());
        return Model(model);
    }
    /** Ends a pass. */
    Model finish() {
        unicon_model_t *model = nullptr;
        detail::check(unicon_partial_fit_finish(handle_.get(), &model), context_.get());
        return Model(model);
    }

private:
    detail::SharedContext context_;
    detail::Handle<unicon_partial_fit_t, unicon_partial_fit_destroy> handle_;
};

/** The loss of a batch and its gradients; see unicon_contrastive_grad(). */
inline double contrastive_grad(const Context &context, const Loss &loss, const View &zx, const View &zy,
                               const MutableView &dzx, const MutableView &dzy, const Positives &positives = Positives::diagonal()) {
    const unicon_positives_t p = positives.get(zx.rows(), zy.rows());
    double value = 0;
    context.check(unicon_contrastive_grad(context.get(), &loss, zx.get(), zy.get(), &p, &value, dzx.get(), dzy.get()));
    return value;
}

/** Nearest items, query by query; index -1 where there are fewer than k. */
struct Neighbours {
    int64_t k;
    std::vector<float> scores;
    std::vector<int64_t> indices;
};

/** The k nearest items of every query; see unicon_search(). */
inline Neighbours search(const Context &context, const View &queries, const View &items, int64_t k) {
    if (k < 1) throw Error(UNICON_INVALID_ARGUMENT, "k: expected at least 1, got " + std::to_string(k));
    Neighbours out{k, {}, {}};
    out.scores.resize(static_cast<size_t>(queries.rows() * k));
    out.indices.resize(out.scores.size());
    const MutableView scores = view(out.scores.data(), queries.rows(), k);
    context.check(unicon_search(context.get(), queries.get(), items.get(), k, scores.get(), out.indices.data()));
    return out;
}

/** Recall@k: x to y for every k, then y to x; see unicon_recall(). */
inline std::vector<double> recall(const Context &context, const View &zx, const View &zy, const std::vector<int64_t> &ks,
                                  const Positives &truth = Positives::diagonal()) {
    const unicon_positives_t p = truth.get(zx.rows(), zy.rows());
    std::vector<double> out(2 * ks.size());
    context.check(unicon_recall(context.get(), zx.get(), zy.get(), &p, ks.data(), static_cast<int64_t>(ks.size()), out.data()));
    return out;
}

/** What items that are exactly as similar as a query's best match do to its rank; see ::unicon_ties. */
enum class Ties : int32_t {
    expected = UNICON_TIES_EXPECTED,
    lower_index = UNICON_TIES_LOWER_INDEX,
    optimistic = UNICON_TIES_OPTIMISTIC,
    pessimistic = UNICON_TIES_PESSIMISTIC
};

namespace detail {
inline unicon_evaluation_t evaluation() {
    unicon_evaluation_t e;
    check(unicon_evaluation_init(&e, sizeof e), nullptr);
    return e;
}
} // namespace detail

/** How retrieval is evaluated, with the defaults of ::unicon_evaluation. */
struct EvaluationOptions {
    Ties ties = Ties::expected;
    bool exclude_self = false;
    int64_t resamples = detail::evaluation().resamples;
    double level = detail::evaluation().level;
    uint64_t seed = detail::evaluation().seed;
};

/** What evaluate() finds: Recall@k and its intervals (low and high end) as recall() orders them, and the other figures. */
struct Evaluation {
    std::vector<double> recall;
    std::vector<double> intervals;
    unicon_evaluation_t figures;
};

/** Recall@k and ranks both ways, with intervals and a rule for ties; see unicon_evaluate(). */
inline Evaluation evaluate(const Context &context, const View &zx, const View &zy, const std::vector<int64_t> &ks,
                           const Positives &truth = Positives::diagonal(), const EvaluationOptions &options = {}) {
    const unicon_positives_t p = truth.get(zx.rows(), zy.rows());
    Evaluation out{std::vector<double>(2 * ks.size()), std::vector<double>(4 * ks.size()), detail::evaluation()};
    out.figures.ties = static_cast<int32_t>(options.ties);
    out.figures.exclude_self = options.exclude_self ? 1 : 0;
    out.figures.resamples = options.resamples;
    out.figures.level = options.level;
    out.figures.seed = options.seed;
    context.check(unicon_evaluate(context.get(), zx.get(), zy.get(), &p, ks.data(), static_cast<int64_t>(ks.size()),
                                  &out.figures, out.recall.data(), out.intervals.data()));
    return out;
}

/** Items that stay on a context's device, searched many times; see unicon_items_create(). */
class Items {
public:
    Items(const Context &context, const View &items) {
        unicon_items_t *handle = nullptr;
        context.check(unicon_items_create(context.get(), items.get(), &handle));
        handle_.reset(handle);
    }
    /** The k nearest items of every query. With `self` query i is item self + i, which it does not find. */
    Neighbours search(const Context &context, const View &queries, int64_t k, int64_t self = -1) const {
        if (k < 1) throw Error(UNICON_INVALID_ARGUMENT, "k: expected at least 1, got " + std::to_string(k));
        Neighbours out{k, {}, {}};
        out.scores.resize(static_cast<size_t>(queries.rows() * k));
        out.indices.resize(out.scores.size());
        const MutableView scores = view(out.scores.data(), queries.rows(), k);
        context.check(unicon_items_search(context.get(), handle_.get(), queries.get(), k, self, scores.get(),
                                          out.indices.data()));
        return out;
    }

private:
    detail::Handle<unicon_items_t, unicon_items_destroy> handle_;
};

/** The Gram matrix k(a_i, b_j); see unicon_gram(). */
inline void gram(const Context &context, const Kernel &kernel, const View &a, const View &b, const MutableView &out) {
    context.check(unicon_gram(context.get(), &kernel, a.get(), b.get(), out.get()));
}

/** @} */

} // namespace unicon

#endif /* UNICON_HPP */
