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
 * - Contexts, weights, partial fits, items and reports move and do not copy; copies of a model share its encoders. All are destroyed
 *   with the last of their scopes, in any order.
 * - Views borrow. view() makes one from a pointer, from a std::vector (or anything with data() and size()), from an
 *   Eigen-like matrix, map or block (data(), rows(), cols(), innerStride(), outerStride(), IsRowMajor) or from an mdspan of two
 *   dimensions (data_handle(), extent(), stride()) in any order, without a copy.
 *   Both strides are kept: a layout that the library cannot read is an error of the call. Of constant data it is a View, which
 *   no function takes as an output; of other data a MutableView.
 * - What may be absent is a std::optional.
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

/** The text of the last failure on a context (or, for NULL, of any call on this thread). */
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
        throw Error(UNICON_ERROR_INVALID_ARGUMENT, "cols: expected a divisor of the " + std::to_string(size)
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

/** An mdspan of two dimensions, of the standard library or of Kokkos, in any layout. */
template <class M, class = decltype(std::declval<const M &>().stride(0)), class = decltype(std::declval<const M &>().extent(0)),
          class = std::enable_if_t<std::is_pointer<decltype(std::declval<const M &>().data_handle())>::value>>
view_of<std::remove_pointer_t<decltype(std::declval<const M &>().data_handle())>> view(const M &matrix) {
    static_assert(M::rank() == 2, "unicon: an mdspan of two dimensions");
    return view(matrix.data_handle(), static_cast<int64_t>(matrix.extent(0)), static_cast<int64_t>(matrix.extent(1)),
                static_cast<int64_t>(matrix.stride(0)), static_cast<int64_t>(matrix.stride(1)));
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
    matern32 = UNICON_KERNEL_MATERN32,
    precomputed = UNICON_KERNEL_PRECOMPUTED
};

/** What a stream of batches is summed up in; see ::unicon_accumulate. */
enum class Accumulate : int32_t { moments = UNICON_ACCUMULATE_MOMENTS, solutions = UNICON_ACCUMULATE_SOLUTIONS };

/** What items that are exactly as similar as a query's best match do to its rank; see ::unicon_ties. */
enum class Ties : int32_t {
    expected = UNICON_TIES_EXPECTED,
    lower_index = UNICON_TIES_LOWER_INDEX,
    optimistic = UNICON_TIES_OPTIMISTIC,
    pessimistic = UNICON_TIES_PESSIMISTIC
};

/** How a fit ended; see ::unicon_outcome. */
enum class Outcome : int32_t {
    completed = UNICON_OUTCOME_COMPLETED,
    converged = UNICON_OUTCOME_CONVERGED,
    cancelled = UNICON_OUTCOME_CANCELLED,
    out_of_time = UNICON_OUTCOME_OUT_OF_TIME
};

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
            throw Error(UNICON_ERROR_INVALID_ARGUMENT, std::string(name) + ": expected " + std::to_string(expected)
                                                     + " values, got " + std::to_string(got));
    }
    int32_t kind_;
    std::vector<int64_t> a_, b_;
};

/** @} */
/** @name Contexts and models */
/** @{ */

/** Told what a call that succeeds noticed; see ::unicon_warning_fn. What it throws the call throws. */
using Warning = std::function<void(const std::string &)>;

namespace detail {
/** A context that what lives on it keeps, and its function for warnings. */
class Owned {
public:
    Owned(const unicon_context_options_t *options, Warning warning) : warning_(std::move(warning)) {
        unicon_context_options_t raw;
        detail::check(unicon_context_options_init(&raw, sizeof raw), nullptr);
        if (options) raw = *options;
        if (warning_) {
            raw.warning = &Owned::warn;
            raw.warning_user = this;
        }
        detail::check(unicon_context_create(&raw, &handle_), nullptr);
    }
    ~Owned() { unicon_context_destroy(handle_); }
    Owned(const Owned &) = delete;
    Owned &operator=(const Owned &) = delete;
    unicon_context_t *get() const noexcept { return handle_; }
    /** Throws what a call of this status failed of, or what the function for warnings threw. */
    void check(unicon_status_t status) {
        // A call that met the context at work was told nothing.
        if (status != UNICON_ERROR_BUSY && thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
        detail::check(status, nullptr);
    }
    /** The handle that `call(&pointer)` makes. */
    template <class H, class F> H make(F call) {
        typename H::pointer pointer = nullptr;
        const unicon_status_t status = call(&pointer);
        H made(pointer);
        check(status);
        return made;
    }

private:
    static void warn(const char *text, void *user) {
        Owned *self = static_cast<Owned *>(user);
        try {
            self->warning_(text);
        } catch (...) {
            self->thrown_ = std::current_exception();
        }
    }
    Warning warning_;
    std::exception_ptr thrown_;
    unicon_context_t *handle_ = nullptr;
};
using SharedContext = std::shared_ptr<Owned>;
using ModelHandle = Handle<unicon_model_t, unicon_model_destroy>;
using ReportHandle = Handle<unicon_report_t, unicon_report_destroy>;
} // namespace detail

/** A device with its stream, threads, allocator and communicator. One call at a time. Moves and does not copy. */
class Context {
public:
    explicit Context(Warning warning = nullptr) : owned_(std::make_shared<detail::Owned>(nullptr, std::move(warning))) {}
    explicit Context(const unicon_context_options_t &options, Warning warning = nullptr)
        : owned_(std::make_shared<detail::Owned>(&options, std::move(warning))) {}
    Context(Context &&) = default;
    Context &operator=(Context &&) = default;
    /** The defaults, for a context with some fields changed. */
    static unicon_context_options_t options() {
        unicon_context_options_t o;
        detail::check(unicon_context_options_init(&o, sizeof o), nullptr);
        return o;
    }
    unicon_context_t *get() const noexcept { return owned_->get(); }
    /** Ends the call in progress, or where none is the next one; from any thread. See unicon_cancel(). */
    void cancel() const noexcept { unicon_cancel(get()); }
    /** Takes back a cancellation that has ended no call yet. */
    void cancel_clear() const noexcept { unicon_cancel_clear(get()); }
    void check(unicon_status_t status) const { owned_->check(status); }
    const detail::SharedContext &shared() const noexcept { return owned_; }

private:
    detail::SharedContext owned_;
};

/** A pair of encoders. Immutable; may be used by several threads at once, each with its context. Copies share it. */
class Model {
public:
    /** Takes the handle over. */
    explicit Model(unicon_model_t *handle) : Model(detail::ModelHandle(handle)) {}
    explicit Model(detail::ModelHandle handle) : handle_(std::move(handle)) {
        description_.struct_size = sizeof description_;
        detail::check(unicon_model_describe(handle_.get(), &description_), nullptr);
    }
    static Model linear(const Context &context, const View &f1, const View &f2) {
        return Model(context.shared()->make<detail::ModelHandle>(
            [&](unicon_model_t **out) { return unicon_model_create_linear(context.get(), f1.get(), f2.get(), out); }));
    }
    static Model load(const Context &context, const std::string &path) {
        return Model(context.shared()->make<detail::ModelHandle>(
            [&](unicon_model_t **out) { return unicon_model_load(context.get(), path.c_str(), out); }));
    }
    /** A model from the bytes of to_bytes() or of a model file. */
    static Model from_bytes(const void *data, size_t size) {
        unicon_model_t *handle = nullptr;
        detail::check(unicon_model_from_bytes(data, static_cast<int64_t>(size), &handle), nullptr);
        return Model(handle);
    }
    /** The model with embeddings of r columns, and the relative error of its similarities: see unicon_model_compress(). */
    std::pair<Model, double> compress(const Context &context, const View &x, const View &y, int64_t r) const {
        double error = 0;
        Model made(context.shared()->make<detail::ModelHandle>([&](unicon_model_t **out) {
            return unicon_model_compress(context.get(), handle_.get(), x.get(), y.get(), r, &error, out);
        }));
        return {std::move(made), error};
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

/** @} */
/** @name Options */
/** @{ */

/** Held-out pairs; borrows what the views do. */
struct Validation {
    View x, y;
    Positives positives = Positives::diagonal();
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
            *call->thrown = std::current_exception();
            return 1;
        }
    }
};

/** Two matrices and their positives as unicon.h takes them; borrows the memory of both, and the positives' arrays. */
class PairsOf {
public:
    PairsOf(const View &x, const View &y, const Positives &positives)
        : x_(*x.get()), y_(*y.get()), positives_(positives.get(x.rows(), y.rows())), raw_(unicon_pairs(&x_, &y_, &positives_)) {}
    PairsOf(const PairsOf &) = delete;
    PairsOf &operator=(const PairsOf &) = delete;
    const unicon_pairs_t *get() const noexcept { return &raw_; }

private:
    unicon_matrix_t x_, y_;
    unicon_positives_t positives_;
    unicon_pairs_t raw_;
};

/** What the struct of a call's options points to beside the options themselves. */
struct Scratch {
    Call call;
    std::exception_ptr thrown; // by the progress function
    std::optional<PairsOf> validation;
    std::optional<Refine> refine;
};

/** A pointer to an optional value, NULL without one. */
template <class T> const T *pointer(const std::optional<T> &value) { return value ? &*value : nullptr; }

/** What both kinds of options keep: losses, kernels, landmarks, refinement, validation, warm start, checkpoint, progress. `Self` is the class of options. */
template <class Self, class Raw> class Options {
public:
    /** All fields without a method of their own; see the struct in unicon.h. */
    Raw *operator->() noexcept { return &raw_; }
    const Raw *operator->() const noexcept { return &raw_; }
    Self &loss(const Loss &loss) { return loss_ = loss, self(); }
    /** The kernel of both sides. */
    Self &kernel(const Kernel &kernel) { return kernel_ = kernel, self(); }
    /** Pairs to choose on, that weigh solutions and end a refinement. */
    Self &validation(Validation pairs) { return validation_ = std::move(pairs), self(); }
    /** A linear model to begin from. */
    Self &warm_start(const Model &model) { return warm_start_ = model, self(); }
    /** Rows to use as Nystrom reference points. */
    Self &landmarks(std::vector<int64_t> rows) { return landmarks_ = std::move(rows), self(); }
    Self &refine(const Refine &refine) { return refine_ = refine, self(); }
    /** Whether means are taken out of the features: a ::unicon_center. */
    Self &center(int32_t center) { return raw_.center = center, self(); }
    /** File that holds the state of a refinement. */
    Self &checkpoint(std::string path) { return checkpoint_ = std::move(path), self(); }
    Self &progress(Progress progress) { return progress_ = std::move(progress), self(); }

    /** The struct that unicon.h takes; it borrows from this object and from `scratch`. */
    Raw get(Scratch &scratch) const {
        Raw raw = raw_;
        if (loss_) raw.loss = pointer(loss_);
        if (kernel_) raw.kernel = pointer(kernel_);
        if (refine_) raw.refine = pointer(refine_);
        if (!landmarks_.empty()) {
            raw.n_landmarks = static_cast<int64_t>(landmarks_.size());
            raw.landmarks = landmarks_.data();
        }
        if (!checkpoint_.empty()) raw.checkpoint = checkpoint_.c_str();
        if (validation_) {
            scratch.validation.emplace(validation_->x, validation_->y, validation_->positives);
            raw.validation = scratch.validation->get();
        }
        if (warm_start_) raw.warm_start = warm_start_->get();
        if (progress_) {
            scratch.call.progress = &progress_;
            scratch.call.thrown = &scratch.thrown;
            raw.progress = &Call::run;
            raw.progress_user = &scratch.call;
        }
        return raw;
    }

protected:
    std::optional<Kernel> kernel_;
    Raw raw_{};
    std::optional<Refine> refine_;

private:
    Self &self() noexcept { return static_cast<Self &>(*this); }
    std::optional<Loss> loss_;
    std::vector<int64_t> landmarks_;
    std::string checkpoint_;
    std::optional<Validation> validation_;
    std::optional<Model> warm_start_;
    Progress progress_;
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
        // The paper's own depends on whether there is a kernel.
        if (kernel_) raw_.kernel = &*kernel_;
        const unicon_status_t status = unicon_fit_options_preset(&raw_, preset);
        if (kernel_) raw_.kernel = nullptr;
        detail::check(status, nullptr);
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
    unicon_fit_options_t get(detail::Scratch &scratch) const {
        unicon_fit_options_t raw = Options::get(scratch);
        if (damping_) raw.damping = detail::pointer(damping_);
        if (refine_ && !stages_.empty()) {
            scratch.refine = *refine_;
            scratch.refine->stages = stages_.data();
            scratch.refine->n_stages = static_cast<int64_t>(stages_.size());
            raw.refine = &*scratch.refine;
        }
        return raw;
    }

private:
    std::optional<Damping> damping_;
    std::vector<int64_t> stages_;
};

/** ::unicon_best_options_t; keeps what its pointers point to. */
class BestOptions : public detail::Options<BestOptions, unicon_best_options_t> {
public:
    /** Dimension `r`; 0 chooses it. */
    explicit BestOptions(int64_t r = 0) {
        detail::check(unicon_best_options_init(&raw_, sizeof raw_), nullptr);
        raw_.r = r;
        raw_.dimension = r == 0 ? UNICON_DIMENSION_AUTO : UNICON_DIMENSION_FIXED;
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
    unicon_best_options_t get(detail::Scratch &scratch) const {
        unicon_best_options_t raw = Options::get(scratch);
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
/** @name What is found */
/** @{ */

/** What a fit did or an evaluation found: values by their ::unicon_report_key, absent ones empty. Moves and does not copy. */
class Report {
public:
    /** Takes the handle over. */
    explicit Report(unicon_report_t *handle) : handle_(handle) {}
    explicit Report(detail::ReportHandle handle) : handle_(std::move(handle)) {}
    std::optional<double> real(int32_t key) const {
        double value = 0;
        return found(unicon_report_real(handle_.get(), key, &value)) ? std::optional<double>(value) : std::nullopt;
    }
    std::optional<int64_t> integer(int32_t key) const {
        int64_t value = 0;
        return found(unicon_report_integer(handle_.get(), key, &value)) ? std::optional<int64_t>(value) : std::nullopt;
    }
    std::optional<std::vector<double>> series(int32_t key) const {
        int64_t count = 0;
        if (!found(unicon_report_series(handle_.get(), key, nullptr, 0, &count))) return std::nullopt;
        std::vector<double> values(static_cast<size_t>(count));
        detail::check(unicon_report_series(handle_.get(), key, values.data(), count, &count), nullptr);
        return values;
    }
    const unicon_report_t *get() const noexcept { return handle_.get(); }

private:
    static bool found(unicon_status_t status) {
        if (status == UNICON_ERROR_NO_VALUE) return false;
        detail::check(status, nullptr);
        return true;
    }
    detail::ReportHandle handle_;
};

/** One point of the history of damping and refinement. */
struct TracePoint {
    double seconds;      /**< ::UNICON_REPORT_TRACE_SECONDS. */
    double loss;         /**< ::UNICON_REPORT_TRACE_LOSS. */
    std::optional<double> score; /**< ::UNICON_REPORT_TRACE_SCORE. */
    int64_t negatives;   /**< ::UNICON_REPORT_TRACE_NEGATIVES. */
    int64_t evaluations; /**< ::UNICON_REPORT_TRACE_EVALUATIONS. */
    std::optional<double> sampling_error; /**< ::UNICON_REPORT_TRACE_SAMPLING_ERROR. */
};

/** What a fit did: the values of its report, which ::unicon_report_key describes. */
struct FitInfo {
    explicit FitInfo(const Report &report)
        : outcome(static_cast<Outcome>(report.integer(UNICON_REPORT_OUTCOME).value())),
          n_iters(report.integer(UNICON_REPORT_N_ITERS).value()),
          rejected_update(report.integer(UNICON_REPORT_REJECTED_UPDATE).value() != 0),
          r(report.integer(UNICON_REPORT_R).value()),
          power(report.real(UNICON_REPORT_POWER).value()),
          tau(report.real(UNICON_REPORT_TAU).value()),
          whiten(report.real(UNICON_REPORT_WHITEN)),
          final_loss(report.real(UNICON_REPORT_FINAL_LOSS)),
          sampling_error(report.real(UNICON_REPORT_SAMPLING_ERROR)),
          loss(report.series(UNICON_REPORT_LOSS).value()),
          change(report.series(UNICON_REPORT_CHANGE).value()),
          singular_values(report.series(UNICON_REPORT_SINGULAR_VALUES).value()),
          trace(history(report)),
          returned(report.integer(UNICON_REPORT_RETURNED)),
          evaluations(report.integer(UNICON_REPORT_EVALUATIONS).value()),
          rows_without_positives(report.integer(UNICON_REPORT_ROWS_WITHOUT_POSITIVES).value()),
          cols_without_positives(report.integer(UNICON_REPORT_COLS_WITHOUT_POSITIVES).value()),
          zero_rows_x(report.integer(UNICON_REPORT_ZERO_ROWS_X).value()),
          zero_rows_y(report.integer(UNICON_REPORT_ZERO_ROWS_Y).value()),
          distinct_x(report.integer(UNICON_REPORT_DISTINCT_X)),
          distinct_y(report.integer(UNICON_REPORT_DISTINCT_Y)),
          rows_dropped(report.integer(UNICON_REPORT_ROWS_DROPPED).value()),
          rows_held_back(report.integer(UNICON_REPORT_ROWS_HELD_BACK).value()),
          cols_held_back(report.integer(UNICON_REPORT_COLS_HELD_BACK).value()),
          held_apart(report.integer(UNICON_REPORT_HELD_APART)),
          centred_x(report.integer(UNICON_REPORT_CENTRED_X).value() != 0),
          centred_y(report.integer(UNICON_REPORT_CENTRED_Y).value() != 0),
          workspace_bytes(report.integer(UNICON_REPORT_WORKSPACE_BYTES).value()),
          peak_bytes(report.integer(UNICON_REPORT_PEAK_BYTES).value()),
          seconds(report.real(UNICON_REPORT_SECONDS).value()),
          seconds_load(report.real(UNICON_REPORT_SECONDS_LOAD).value()),
          seconds_features(report.real(UNICON_REPORT_SECONDS_FEATURES).value()),
          seconds_encode(report.real(UNICON_REPORT_SECONDS_ENCODE).value()),
          seconds_statistics(report.real(UNICON_REPORT_SECONDS_STATISTICS).value()),
          seconds_weights(report.real(UNICON_REPORT_SECONDS_WEIGHTS).value()),
          seconds_spectral(report.real(UNICON_REPORT_SECONDS_SPECTRAL).value()),
          seconds_validation(report.real(UNICON_REPORT_SECONDS_VALIDATION).value()) {}

    Outcome outcome;
    int64_t n_iters;
    bool rejected_update;
    int64_t r;
    double power, tau;
    std::optional<double> whiten, final_loss, sampling_error;
    std::vector<double> loss, change, singular_values;
    std::vector<TracePoint> trace;
    std::optional<int64_t> returned;
    int64_t evaluations, rows_without_positives, cols_without_positives, zero_rows_x, zero_rows_y;
    std::optional<int64_t> distinct_x, distinct_y;
    int64_t rows_dropped, rows_held_back, cols_held_back;
    std::optional<int64_t> held_apart;
    bool centred_x, centred_y;
    int64_t workspace_bytes, peak_bytes;
    double seconds, seconds_load, seconds_features, seconds_encode, seconds_statistics, seconds_weights, seconds_spectral,
        seconds_validation;

private:
    static std::vector<TracePoint> history(const Report &report) {
        const auto at = [&](int32_t key) { return report.series(key).value(); };
        const auto seconds = at(UNICON_REPORT_TRACE_SECONDS), loss = at(UNICON_REPORT_TRACE_LOSS), score = at(UNICON_REPORT_TRACE_SCORE),
                   negatives = at(UNICON_REPORT_TRACE_NEGATIVES), evaluations = at(UNICON_REPORT_TRACE_EVALUATIONS),
                   error = at(UNICON_REPORT_TRACE_SAMPLING_ERROR);
        const auto known = [](double value) { return value == value ? std::optional<double>(value) : std::nullopt; };
        std::vector<TracePoint> points;
        for (size_t i = 0; i < seconds.size(); i++)
            points.push_back({seconds[i], loss[i], known(score[i]), static_cast<int64_t>(negatives[i]), static_cast<int64_t>(evaluations[i]),
                              known(error[i])});
        return points;
    }
};

struct FitResult {
    Model model;
    FitInfo info;
};

/** How far an interval reaches. */
struct Interval {
    double low, high;
};

/** How the rows of one side as queries find those of the other. */
struct Retrieval {
    std::vector<double> recall;          /**< Recall@k, for each of the ks. */
    std::vector<Interval> intervals;     /**< Of the recalls; empty without resamples. */
    double mrr;                          /**< Mean reciprocal rank. */
    std::optional<Interval> mrr_interval; /**< Empty without resamples. */
    std::optional<double> median_rank;   /**< From 1; empty if no query has a match. */
    std::optional<double> mean_rank;     /**< The same. */
    int64_t tied;                        /**< Queries whose best match is exactly as similar as an item that is none. */
};

/** What evaluate() finds. */
struct Evaluation {
    std::vector<int64_t> ks;
    double matching_accuracy; /**< Share of rows of x whose most similar row of y is a match. */
    Retrieval x2y, y2x;
};

/** @} */
/** @name Weights */
/** @{ */

/** Negatives sampled per row and column, which stand for all, and the seed of the samples; 0: all of them, exact. */
struct Sampling {
    int64_t n_negatives = 0;
    uint64_t seed = 0;
};

namespace detail {
inline unicon_weights_options_t weights_options(const Loss &loss, const Sampling &sampling) {
    unicon_weights_options_t raw;
    check(unicon_weights_options_init(&raw, sizeof raw), nullptr);
    raw.loss = &loss;
    raw.n_negatives = sampling.n_negatives;
    raw.seed = sampling.seed;
    return raw;
}
} // namespace detail

/** S(gamma) of a batch as an operator. Moves and does not copy. */
class Weights {
public:
    Weights(const Context &context, const Loss &loss, const View &zx, const View &zy,
            const Positives &positives = Positives::diagonal(), const Sampling &sampling = {})
        : context_(context.shared()) {
        const detail::PairsOf pairs(zx, zy, positives);
        const unicon_weights_options_t options = detail::weights_options(loss, sampling);
        handle_ = context_->make<Owner>(
            [&](unicon_weights_t **out) { return unicon_weights_create(context_->get(), &options, pairs.get(), out); });
    }
    /** S of any matrix of cosines, for small n. */
    static Weights of_similarity(const Context &context, const Loss &loss, const View &similarity,
                                 const Positives &positives = Positives::diagonal(), const Sampling &sampling = {}) {
        const unicon_positives_t p = positives.get(similarity.rows(), similarity.cols());
        const unicon_weights_options_t options = detail::weights_options(loss, sampling);
        Weights out(context.shared());
        out.handle_ = out.context_->make<Owner>([&](unicon_weights_t **made) {
            return unicon_weights_create_similarity(context.get(), &options, similarity.get(), &p, made);
        });
        return out;
    }
    /** The loss, and the shares of the rows and of the columns. */
    struct Losses {
        double value, rows, cols;
    };
    Losses losses() const {
        Losses out{};
        check(unicon_weights_loss(handle_.get(), &out.value, &out.rows, &out.cols));
        return out;
    }
    double loss() const { return losses().value; }
    /** How many rows and columns have no positive. */
    std::pair<int64_t, int64_t> unmatched() const {
        std::pair<int64_t, int64_t> out;
        check(unicon_weights_unmatched(handle_.get(), &out.first, &out.second));
        return out;
    }
    void dense(const MutableView &s) { check(unicon_weights_dense(handle_.get(), s.get())); }
    void apply(const View &v, const MutableView &sv) { check(unicon_weights_apply(handle_.get(), v.get(), sv.get())); }
    void apply_transpose(const View &u, const MutableView &stu) {
        check(unicon_weights_apply_transpose(handle_.get(), u.get(), stu.get()));
    }
    void cross(const View &x, const View &y, const MutableView &c) { check(unicon_weights_cross(handle_.get(), x.get(), y.get(), c.get())); }
    unicon_weights_t *get() const noexcept { return handle_.get(); }

private:
    using Owner = detail::Handle<unicon_weights_t, unicon_weights_destroy>;
    explicit Weights(const detail::SharedContext &context) : context_(context) {}
    void check(unicon_status_t status) const { context_->check(status); }
    detail::SharedContext context_;
    Owner handle_;
};

/** The loss of a batch and its gradients; see unicon_contrastive_grad(). */
inline double contrastive_grad(const Context &context, const Loss &loss, const View &zx, const View &zy,
                               const MutableView &dzx, const MutableView &dzy, const Positives &positives = Positives::diagonal(),
                               const Sampling &sampling = {}) {
    const detail::PairsOf pairs(zx, zy, positives);
    const unicon_weights_options_t options = detail::weights_options(loss, sampling);
    double value = 0;
    context.check(unicon_contrastive_grad(context.get(), &options, pairs.get(), &value, dzx.get(), dzy.get()));
    return value;
}

/** @} */
/** @name Fits */
/** @{ */

namespace detail {
/** Either fit: `function` is unicon_fit() or unicon_fit_best(). */
template <class Options, class Function>
FitResult fit(Function function, const Context &context, const Options &options, const View &x, const View &y,
              const Positives &positives) {
    Scratch scratch;
    const auto raw = options.get(scratch);
    const PairsOf pairs(x, y, positives);
    unicon_model_t *model = nullptr;
    unicon_report_t *report = nullptr;
    const unicon_status_t status = function(context.get(), &raw, pairs.get(), &model, &report);
    ModelHandle made(model);
    const Report found{ReportHandle(report)};
    if (scratch.thrown) std::rethrow_exception(scratch.thrown);
    context.check(status);
    return FitResult{Model(std::move(made)), FitInfo(found)};
}
} // namespace detail

/** Fits encoders; see unicon_fit(). */
inline FitResult fit(const Context &context, const FitOptions &options, const View &x, const View &y,
                     const Positives &positives = Positives::diagonal()) {
    return detail::fit(unicon_fit, context, options, x, y, positives);
}

/** The fit that needs no tuning; see unicon_fit_best(). */
inline FitResult fit_best(const Context &context, const BestOptions &options, const View &x, const View &y,
                          const Positives &positives = Positives::diagonal()) {
    return detail::fit(unicon_fit_best, context, options, x, y, positives);
}

/** ::unicon_sizes_t of a problem with its defaults. */
struct Sizes : unicon_sizes_t {
    Sizes(int64_t rows_x, int64_t rows_y, int64_t cols_x, int64_t cols_y) : unicon_sizes_t() {
        detail::check(unicon_sizes_init(this, sizeof(unicon_sizes_t)), nullptr);
        n_x = rows_x;
        n_y = rows_y;
        d1 = cols_x;
        d2 = cols_y;
    }
};

/** Bytes of sample-sized matrices that fit() holds at most; see unicon_fit_workspace(). */
inline uint64_t fit_workspace(const Context &context, const FitOptions &options, const Sizes &sizes) {
    detail::Scratch scratch;
    const unicon_fit_options_t raw = options.get(scratch);
    uint64_t bytes = 0;
    context.check(unicon_fit_workspace(context.get(), &raw, &sizes, &bytes));
    return bytes;
}

/** Bytes of sample-sized matrices that fit_best() holds at most; see unicon_fit_best_workspace(). */
inline uint64_t fit_best_workspace(const Context &context, const BestOptions &options, const Sizes &sizes) {
    detail::Scratch scratch;
    const unicon_best_options_t raw = options.get(scratch);
    uint64_t bytes = 0;
    context.check(unicon_fit_best_workspace(context.get(), &raw, &sizes, &bytes));
    return bytes;
}

/** A fit whose batches arrive one by one; see unicon_partial_fit_create(). Moves and does not copy. */
class PartialFit {
public:
    PartialFit(const Context &context, const FitOptions &options, int64_t d1, int64_t d2, Accumulate accumulate = Accumulate::moments,
               int32_t dtype = UNICON_F32)
        : context_(context.shared()) {
        detail::Scratch scratch;
        const unicon_fit_options_t raw = options.get(scratch);
        handle_ = context_->make<Owner>([&](unicon_partial_fit_t **out) {
            return unicon_partial_fit_create(context_->get(), &raw, static_cast<int32_t>(accumulate), d1, d2, dtype, out);
        });
    }
    /** Adds one batch. @return its loss before the update. */
    double add(const View &x, const View &y, const Positives &positives = Positives::diagonal()) {
        const detail::PairsOf pairs(x, y, positives);
        double loss = 0;
        context_->check(unicon_partial_fit_add(handle_.get(), pairs.get(), &loss));
        return loss;
    }
    /** The model of the batches of this pass so far. */
    Model model() {
        return Model(context_->make<detail::ModelHandle>([&](unicon_model_t **out) { return unicon_partial_fit_model(handle_.get(), out); }));
    }
    /** Ends a pass. */
    Model finish() {
        return Model(context_->make<detail::ModelHandle>([&](unicon_model_t **out) { return unicon_partial_fit_finish(handle_.get(), out); }));
    }

private:
    using Owner = detail::Handle<unicon_partial_fit_t, unicon_partial_fit_destroy>;
    detail::SharedContext context_;
    Owner handle_;
};

/** @} */
/** @name Retrieval and kernels */
/** @{ */

/** Nearest items, query by query; index -1 where there are fewer than k. */
struct Neighbours {
    int64_t k;
    std::vector<float> scores;
    std::vector<int64_t> indices;
};

namespace detail {
/** Room for the k nearest of each query. */
inline Neighbours neighbours(const View &queries, int64_t k) {
    if (k < 1) throw Error(UNICON_ERROR_INVALID_ARGUMENT, "k: expected at least 1, got " + std::to_string(k));
    Neighbours out{k, {}, {}};
    out.scores.resize(static_cast<size_t>(queries.rows() * k));
    // An empty vector has no address, and unicon.h takes none for no indices.
    out.indices.reserve(1);
    out.indices.resize(out.scores.size());
    return out;
}
} // namespace detail

/** The k nearest items of every query; see unicon_search(). */
inline Neighbours search(const Context &context, const View &queries, const View &items, int64_t k) {
    Neighbours out = detail::neighbours(queries, k);
    const MutableView scores = view(out.scores.data(), queries.rows(), k);
    context.check(unicon_search(context.get(), queries.get(), items.get(), k, scores.get(), out.indices.data()));
    return out;
}

/** Recall@k: x to y for every k, then y to x; see unicon_recall(). */
inline std::vector<double> recall(const Context &context, const View &zx, const View &zy, const std::vector<int64_t> &ks,
                                  const Positives &truth = Positives::diagonal(), Ties ties = Ties::expected) {
    const detail::PairsOf pairs(zx, zy, truth);
    std::vector<double> out(2 * ks.size());
    context.check(unicon_recall(context.get(), pairs.get(), static_cast<int32_t>(ties), ks.data(), static_cast<int64_t>(ks.size()),
                                out.data()));
    return out;
}

namespace detail {
inline unicon_evaluation_options_t evaluation() {
    unicon_evaluation_options_t e;
    check(unicon_evaluation_options_init(&e, sizeof e), nullptr);
    return e;
}
} // namespace detail

/** How retrieval is evaluated, with the defaults of ::unicon_evaluation_options. */
struct EvaluationOptions {
    std::vector<int64_t> ks = {1, 5, 10};
    Ties ties = Ties::expected;
    bool exclude_self = false;
    int64_t resamples = detail::evaluation().resamples;
    double level = detail::evaluation().level;
    uint64_t seed = detail::evaluation().seed;
};

/** Recall@k and ranks both ways, with intervals and a rule for ties; see unicon_evaluate(). */
inline Evaluation evaluate(const Context &context, const View &zx, const View &zy, const EvaluationOptions &options = {},
                           const Positives &truth = Positives::diagonal()) {
    const detail::PairsOf pairs(zx, zy, truth);
    unicon_evaluation_options_t raw = detail::evaluation();
    raw.ks = options.ks.data();
    raw.n_ks = static_cast<int64_t>(options.ks.size());
    raw.ties = static_cast<int32_t>(options.ties);
    raw.exclude_self = options.exclude_self ? 1 : 0;
    raw.resamples = options.resamples;
    raw.level = options.level;
    raw.seed = options.seed;
    const Report report(context.shared()->make<detail::ReportHandle>(
        [&](unicon_report_t **out) { return unicon_evaluate(context.get(), &raw, pairs.get(), out); }));
    // The keys of y2x follow those of x2y.
    const auto way = [&](bool back) {
        const auto pick = [&](int32_t there, int32_t other) { return back ? other : there; };
        Retrieval out{};
        out.recall = report.series(pick(UNICON_REPORT_RECALL_X2Y, UNICON_REPORT_RECALL_Y2X)).value();
        const auto low = report.series(pick(UNICON_REPORT_RECALL_X2Y_LOW, UNICON_REPORT_RECALL_Y2X_LOW));
        const auto high = report.series(pick(UNICON_REPORT_RECALL_X2Y_HIGH, UNICON_REPORT_RECALL_Y2X_HIGH));
        for (size_t i = 0; low && high && i < low->size(); i++) out.intervals.push_back({(*low)[i], (*high)[i]});
        out.mrr = report.real(pick(UNICON_REPORT_MRR_X2Y, UNICON_REPORT_MRR_Y2X)).value();
        const auto least = report.real(pick(UNICON_REPORT_MRR_X2Y_LOW, UNICON_REPORT_MRR_Y2X_LOW));
        const auto most = report.real(pick(UNICON_REPORT_MRR_X2Y_HIGH, UNICON_REPORT_MRR_Y2X_HIGH));
        if (least && most) out.mrr_interval = Interval{*least, *most};
        out.median_rank = report.real(pick(UNICON_REPORT_MEDIAN_RANK_X2Y, UNICON_REPORT_MEDIAN_RANK_Y2X));
        out.mean_rank = report.real(pick(UNICON_REPORT_MEAN_RANK_X2Y, UNICON_REPORT_MEAN_RANK_Y2X));
        out.tied = report.integer(pick(UNICON_REPORT_TIED_X2Y, UNICON_REPORT_TIED_Y2X)).value();
        return out;
    };
    return Evaluation{options.ks, report.real(UNICON_REPORT_MATCHING_ACCURACY).value(), way(false), way(true)};
}

/** Items that stay on a context's device, searched many times; see unicon_items_create(). Moves and does not copy. */
class Items {
public:
    Items(const Context &context, const View &items)
        : handle_(context.shared()->make<Owner>(
              [&](unicon_items_t **out) { return unicon_items_create(context.get(), items.get(), out); })) {}
    /** The k nearest items of every query. With `own` query i is item own + i, which it does not find. */
    Neighbours search(const Context &context, const View &queries, int64_t k, int64_t own = UNICON_OWN_NONE) const {
        Neighbours out = detail::neighbours(queries, k);
        const MutableView scores = view(out.scores.data(), queries.rows(), k);
        context.check(unicon_items_search(context.get(), handle_.get(), queries.get(), k, own, scores.get(), out.indices.data()));
        return out;
    }

private:
    using Owner = detail::Handle<unicon_items_t, unicon_items_destroy>;
    Owner handle_;
};

/** The Gram matrix k(a_i, b_j); see unicon_gram(). */
inline void gram(const Context &context, const Kernel &kernel, const View &a, const View &b, const MutableView &out) {
    context.check(unicon_gram(context.get(), &kernel, a.get(), b.get(), out.get()));
}

/** @} */

} // namespace unicon

#endif /* UNICON_HPP */
