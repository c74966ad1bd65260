/**
 * @file unicon.h
 * @brief UniCon: closed-form contrastive alignment of two sets of frozen features, on CPU and CUDA.
 *
 * The method is that of H. Sui, Y. Wang, M. N. Do, "UniCon: Unified Framework for Efficient Contrastive
 * Alignment via Kernels", arXiv 2604.16678. Rows are samples: X is n_x by d1, Y is n_y by d2. Encoders take
 * both into R^r, embeddings are unit vectors, and s_ij is the cosine of f_x(x_i) and f_y(y_j).
 *
 * @par A first program
 * @code{.c}
 * unicon_context_t *ctx = NULL;
 * unicon_context_create(NULL, &ctx);
 *
 * unicon_matrix_t x = unicon_matrix_f32(x_data, n, 512), y = unicon_matrix_f32(y_data, n, 384);
 * unicon_fit_options_t options;
 * unicon_fit_options_init(&options, sizeof options);
 * options.r = 128;
 *
 * unicon_pairs_t pairs = unicon_pairs(&x, &y, NULL);
 * unicon_model_t *model = NULL;
 * if (unicon_fit(ctx, &options, &pairs, &model, NULL) != UNICON_OK) {
 *     char text[256];
 *     unicon_last_error(ctx, text, sizeof text);
 *     fprintf(stderr, "%s\n", text);
 * }
 * unicon_model_destroy(model);
 * unicon_context_destroy(ctx);
 * @endcode
 *
 * @par Conventions
 * These hold for every function and are not repeated below.
 *
 * - **Status.** Functions that can fail return ::unicon_status_t, and 0 is success. The text of the last
 *   failure is kept twice (unicon_last_error()): on the context of the call, where any thread can read it, and for
 *   the thread that called, also where there is no context or it is gone. It names the argument, what was expected
 *   and what came.
 * - **Outputs on failure.** Nothing that an output argument points to is written unless the call succeeds. The
 *   one exception is the report of a fit that ends with ::UNICON_ERROR_CANCELLED.
 * - **Panics.** No panic or exception leaves the library; an internal fault is ::UNICON_ERROR_PANIC with its message.
 *   Callbacks must return normally: an exception or longjmp through the library is undefined behaviour.
 * - **Handles** (context, weights, partial fit, model, items, report) are opaque. Each has a `_destroy` function that accepts
 *   NULL. Destroying a handle twice, or using it afterwards, is undefined behaviour. A handle keeps what it
 *   needs of its context alive, so the order of destruction is free.
 * - **Threads.** Contexts are independent of each other and may be created, moved to and used from any thread,
 *   one call at a time: a second call that meets a context at work returns ::UNICON_ERROR_BUSY at once and changes
 *   nothing (its text is kept for the thread alone). That includes calls out of a callback of the same context. unicon_cancel() and
 *   unicon_last_error() may be called at any time from any thread. Models are immutable: any number of
 *   threads may use one model at once, each with its own context.
 * - **fork().** In a child of fork() a CPU context works: it starts its threads anew there, for the parent's do not
 *   live on. So it is with everything else that uses no CUDA. A context that was at work for another thread when the
 *   process forked stays ::UNICON_ERROR_BUSY in the child. On a CUDA context, and for making one after CUDA was used in the
 *   parent, calls return ::UNICON_ERROR_UNSUPPORTED at once: start a new process (spawn, exec), or fork first.
 * - **Stacks.** Calls may come from threads with small stacks, down to 32 KiB: where less than 512 KiB are left, a call
 *   runs, callbacks included, on a stack of 4 MiB that it takes for its duration. Threads of the library have 2 MiB each.
 * - **Signals.** The library installs no signal handlers and changes no signal's action. Files that it reads are mapped:
 *   one that another process shortens while it is read raises SIGBUS, of which the process ends unless it handles it.
 *   Replace model and feature files by renaming, as the library does, never in place. A file-size limit (RLIMIT_FSIZE)
 *   is ::UNICON_ERROR_IO only in processes that ignore SIGXFSZ; others end by it.
 * - **Matrices** are borrowed for the duration of the call (::unicon_matrix_t). Strides count elements and one
 *   of the two must be 1 (rows or columns contiguous); any other layout is ::UNICON_ERROR_UNSUPPORTED. Inputs are
 *   never written. An output must not overlap an input or another output, from its first to its last element. The memory must
 *   be aligned to its element. Values must be finite, and those of embeddings, queries, items and kernels' arguments also in float32.
 * - **Structs** that grow begin with `struct_size`, set to `sizeof` the struct by the `_init` function, to which
 *   the caller passes that size. Fields that an older caller's struct lacks take their defaults; fields that
 *   an older library does not know must be zero bytes, or the call returns ::UNICON_ERROR_UNSUPPORTED. Reserved
 *   fields are zero. Structs without `struct_size` are frozen. Nested pointers are borrowed for the call.
 * - **Enumerations** travel as int32_t and are checked. Booleans are int32_t, 0 or 1.
 * - **Validation** comes first: a bad argument is reported before any work is done.
 * - **Sizes** are int64_t. Index arrays (group ids, CSR, landmarks) are int64_t in host memory.
 * - **Precision.** float64 features are computed with in float64; float32, float16 and bfloat16 features
 *   in float32. Two inputs of one call that differ are taken to the wider of the two. Decompositions of d by d
 *   matrices are always in float64. Outputs may have any dtype that the function names and are rounded once.
 * - **Memory.** Strings are NUL-terminated UTF-8. Everything the library allocates, it frees.
 * - **Synchronous or not.** On a CPU context every call is synchronous, and so it is on a CUDA context with its own
 *   stream. On a borrowed stream work is enqueued there: host values and host memory are written when a call
 *   returns, device memory in the order of the stream. Host and device pointers are both accepted by a CUDA
 *   context, unless a function says otherwise; device memory must be of the context's device, and float32, float16
 *   or bfloat16. It is read and written in the order of the stream: what fills an input must have been enqueued on
 *   it, or have ended. Device matrices whose columns are contiguous in a row do not pass through the host; those
 *   with contiguous columns do. A CPU context cannot read device memory (::UNICON_ERROR_UNSUPPORTED).
 *
 * @par Binary compatibility
 * The shared library is `libunicon.so.1`, 1 being ::UNICON_ABI_VERSION. Within one ABI version functions and
 * tail fields are only ever added, enumerators are never renumbered, and the exported symbols are exactly the
 * functions declared here.
 */
#ifndef UNICON_H
#define UNICON_H

#include <stddef.h>
#include <stdint.h>

/**
 * @def UNICON_API
 * Marks what the library exports. Define UNICON_STATIC before the header where the static library is linked.
 */
#if defined(UNICON_STATIC)
#define UNICON_API
#elif defined(_WIN32)
#define UNICON_API __declspec(dllimport)
#elif defined(__GNUC__)
#define UNICON_API __attribute__((visibility("default")))
#else
#define UNICON_API
#endif

/**
 * @def UNICON_ADDRESS_ONLY
 * A view is made of an address, not of what lies there: no warning where an output is not filled yet.
 */
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#define UNICON_ADDRESS_ONLY __attribute__((access(none, 1)))
#else
#define UNICON_ADDRESS_ONLY
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** @name Version of the library that this header came with; that of the loaded one: unicon_version() */
/** @{ */
#define UNICON_VERSION_MAJOR 0 /**< First part. */
#define UNICON_VERSION_MINOR 1 /**< Second part. */
#define UNICON_VERSION_PATCH 0 /**< Third part. */
/** `major * 1000000 + minor * 1000 + patch`, to be compared in the preprocessor and with unicon_version_number(). */
#define UNICON_VERSION_NUMBER (UNICON_VERSION_MAJOR * 1000000 + UNICON_VERSION_MINOR * 1000 + UNICON_VERSION_PATCH)
/** The ABI that this header describes; unicon_abi_version() of the loaded library must be equal. */
#define UNICON_ABI_VERSION 1
/** @} */

/** @name Status */
/** @{ */

/** 0 is success; otherwise one of ::unicon_status. */
typedef int32_t unicon_status_t;

/** Values of ::unicon_status_t. They are never renumbered or reused. */
enum unicon_status {
    UNICON_OK = 0,                     /**< Success. */
    UNICON_ERROR_INVALID_ARGUMENT = 1, /**< An argument is outside what its documentation allows. */
    UNICON_ERROR_UNSUPPORTED = 2,      /**< Valid, but not what this library or this build does. */
    UNICON_ERROR_OUT_OF_MEMORY = 3,    /**< An allocation failed, or `workspace_limit` does not suffice. */
    UNICON_ERROR_NO_DEVICE = 4,        /**< The device asked for is not there, or its driver is missing or too old. */
    UNICON_ERROR_CUDA = 5,             /**< A CUDA, cuBLAS, cuSOLVER or NCCL call failed. */
    UNICON_ERROR_NUMERICAL = 6,        /**< A decomposition did not converge or a result is not finite. */
    UNICON_ERROR_CANCELLED = 7,        /**< unicon_cancel() or a progress callback stopped the call. */
    UNICON_ERROR_COMM = 8,             /**< A communicator callback returned non-zero, or the ranks disagree. */
    UNICON_ERROR_IO = 9,               /**< A file could not be read or written. */
    UNICON_ERROR_BAD_FILE = 10,        /**< A file was read, and its contents are not a valid model. */
    UNICON_ERROR_BUSY = 11,            /**< The context is at work for another call. */
    UNICON_ERROR_PANIC = 12,           /**< A fault inside the library; the text says where. Please report it. */
    UNICON_ERROR_NO_VALUE = 13         /**< The report has no such value; see unicon_report_real(). */
};

/**
 * The name of a status, such as "invalid argument".
 * @param status any value.
 * @return a static string, "unknown status" for a value that is not listed. Never NULL.
 */
UNICON_API const char *unicon_status_string(unicon_status_t status);

/** @} */
/** @name Library */
/** @{ */

/**
 * The version of the library as "major.minor.patch".
 * @return a static string.
 */
UNICON_API const char *unicon_version(void);

/**
 * The version of the loaded library, as ::UNICON_VERSION_NUMBER counts.
 * @return the number.
 */
UNICON_API int32_t unicon_version_number(void);

/**
 * The ABI version of the loaded library, to be compared with ::UNICON_ABI_VERSION.
 * @return the number.
 */
UNICON_API int32_t unicon_abi_version(void);

/** Bits of unicon_capabilities(). */
enum unicon_capability {
    UNICON_CAP_CPU = 1,     /**< The CPU backend (always). */
    UNICON_CAP_CUDA = 2,    /**< The CUDA backend is compiled in. Whether a device is there: unicon_device_count(). */
    UNICON_CAP_AVX2 = 4,    /**< This machine has AVX2 and FMA, and they are used. */
    UNICON_CAP_AVX512 = 8,  /**< This machine has AVX-512F, and it is used. */
    UNICON_CAP_MPI = 16     /**< Compiled with the MPI communicator of the command-line program. */
};

/**
 * What this build can do on this machine.
 * @return a bit set of ::unicon_capability. Bits that this header does not name may be set.
 */
UNICON_API uint64_t unicon_capabilities(void);

/**
 * The number of usable devices of a kind.
 * @param device_type ::UNICON_DEVICE_CPU (always 1) or ::UNICON_DEVICE_CUDA (0 where there is no driver).
 * @param[out] count set to the number.
 * @return ::UNICON_OK, or ::UNICON_ERROR_INVALID_ARGUMENT for another type or a NULL pointer. Text: per thread.
 */
UNICON_API unicon_status_t unicon_device_count(int32_t device_type, int32_t *count);

/** @} */
/** @name Matrices */
/** @{ */

/** Element types. */
enum unicon_dtype {
    UNICON_F32 = 1, /**< IEEE single. */
    UNICON_F64 = 2, /**< IEEE double; CPU contexts only. */
    UNICON_F16 = 3, /**< IEEE half. */
    UNICON_BF16 = 4 /**< bfloat16. */
};

/** Where memory lies. The numbers are DLPack's. */
enum unicon_device_type {
    UNICON_DEVICE_AUTO = 0,          /**< In ::unicon_context_options_t only: CUDA if usable, else the CPU. */
    UNICON_DEVICE_CPU = 1,           /**< Host memory. */
    UNICON_DEVICE_CUDA = 2,          /**< CUDA device memory. */
    UNICON_DEVICE_CUDA_HOST = 3,     /**< Pinned host memory: host memory to this library. */
    UNICON_DEVICE_CUDA_MANAGED = 13  /**< CUDA managed memory: device memory to a CUDA context, host memory to a CPU one. */
};

/**
 * A borrowed matrix; element (i, j) is `data[i * row_stride + j * col_stride]`.
 *
 * One of the strides is 1 and the other at least the extent it steps over. A C array is
 * `{row_stride = cols, col_stride = 1}`; a column-major d by n array (Julia, Fortran, Eigen) whose columns are
 * samples is the n by d matrix `{row_stride = d, col_stride = 1}` without a copy. A stride is not looked at
 * where its extent is 1. This struct is frozen.
 */
typedef struct unicon_matrix {
    void *data;          /**< First element. Not written if the matrix is an input. Not NULL unless `rows` is 0. */
    int64_t rows;        /**< Number of rows (samples). At least 1; 0, with any `data`, where a function says so. */
    int64_t cols;        /**< Number of columns (features). At least 1. */
    int64_t row_stride;  /**< Elements from one row to the next. */
    int64_t col_stride;  /**< Elements from one column to the next. */
    int32_t dtype;       /**< ::unicon_dtype. */
    int32_t device_type; /**< ::unicon_device_type. */
    int32_t device_id;   /**< Number of the CUDA device; 0 for host memory. */
    int32_t reserved;    /**< 0. */
} unicon_matrix_t;

/**
 * A row-major matrix in host memory. `data` is not written if the matrix is used as an input.
 * @param data the first element.
 * @param rows number of rows.
 * @param cols number of columns.
 * @param dtype ::unicon_dtype.
 * @return the view.
 */
UNICON_ADDRESS_ONLY static inline unicon_matrix_t unicon_matrix_host(const void *data, int64_t rows, int64_t cols, int32_t dtype)
{
    union { const void *in; void *out; } p;
    unicon_matrix_t m;
    p.in = data;
    m.data = p.out;
    m.rows = rows;
    m.cols = cols;
    m.row_stride = cols;
    m.col_stride = 1;
    m.dtype = dtype;
    m.device_type = UNICON_DEVICE_CPU;
    m.device_id = 0;
    m.reserved = 0;
    return m;
}

/**
 * A row-major float matrix in host memory.
 * @param data the first element.
 * @param rows number of rows.
 * @param cols number of columns.
 * @return the view.
 */
UNICON_ADDRESS_ONLY static inline unicon_matrix_t unicon_matrix_f32(const float *data, int64_t rows, int64_t cols)
{
    return unicon_matrix_host(data, rows, cols, UNICON_F32);
}

/**
 * A row-major double matrix in host memory.
 * @param data the first element.
 * @param rows number of rows.
 * @param cols number of columns.
 * @return the view.
 */
UNICON_ADDRESS_ONLY static inline unicon_matrix_t unicon_matrix_f64(const double *data, int64_t rows, int64_t cols)
{
    return unicon_matrix_host(data, rows, cols, UNICON_F64);
}

/** @} */
/** @name Context */
/** @{ */

/** A device, its stream, threads, allocator and communicator, and the text of the last failure. */
typedef struct unicon_context unicon_context_t;

/**
 * The caller's allocator. Both functions may be called from any thread, also from several at once, and must
 * not call this library. This struct is frozen.
 *
 * It serves the sample-sized matrices of a CPU context: features in the precision of the computation,
 * embeddings, kernel features, products, results before they are handed over. The same matrices are what
 * `workspace_limit` and the workspace queries count. Tiles, statistics, decompositions of d by d matrices (n by n
 * for exact kernels) and bookkeeping use the process's allocator.
 */
typedef struct unicon_allocator {
    /** `size` bytes (at least 1) aligned to `alignment` (a power of two), or NULL: the call then returns
     *  ::UNICON_ERROR_OUT_OF_MEMORY. */
    void *(*allocate)(void *user, size_t size, size_t alignment);
    /** Takes back what `allocate` gave, with the same size and alignment. Never called with NULL. */
    void (*deallocate)(void *user, void *data, size_t size, size_t alignment);
    void *user; /**< Passed to both. */
} unicon_allocator_t;

/**
 * The ranks of a distributed fit, as callbacks: any MPI, NCCL or Gloo can be passed in.
 *
 * unicon_fit() and unicon_fit_best() are then called by all ranks together with the same options. Each passes its own rows: `x` and `y`
 * hold a part of the samples (at least one; not necessarily of the same size on all ranks), in rank order, and so do `x_groups`,
 * `y_groups`, and `indptr` with `indices`, whose columns count over all ranks. Validation pairs and a warm start are whole and the
 * same everywhere, as is the model that every rank gets; it does not depend on the number of ranks, not even in its last bit. A rank
 * that fails takes the others along: they return ::UNICON_ERROR_COMM, with its number and its reason. Progress, `budget` and unicon_cancel() of any
 * rank count for all. Every other function works on what it is given, on one rank. On a CUDA context the
 * model depends on the number of ranks by rounding only, and is the same to the bit on all ranks and from run to run. Data moves from device
 * to device through NCCL where every rank can load it (the callbacks hand its id around; UNICON_NCCL=off in the environment: not), else
 * through the callbacks, which are given host memory, except those of unicon_communicator_nccl().
 *
 * The callbacks must not wait for ever for a rank that is gone. Sums are made of these two, in a fixed order.
 *
 * Every callback returns 0 on success; anything else makes the call ::UNICON_ERROR_COMM. They are called on the thread
 * that called the library, in the same order on every rank. For device memory (`device_type`
 * ::UNICON_DEVICE_CUDA) they enqueue on `stream`; for host memory they have finished when they return, and
 * `stream` is NULL.
 */
typedef struct unicon_communicator {
    size_t struct_size; /**< Set by unicon_communicator_init(). */
    int32_t rank; /**< This rank, 0 <= rank < size. */
    int32_t size; /**< Number of ranks, at least 1. */
    /** Gathers `bytes` bytes of every rank, in rank order, into `received` (size * bytes) on all ranks. */
    int32_t (*allgather)(void *user, const void *sent, void *received, int64_t bytes, int32_t device_type, void *stream);
    /** Sends `send_bytes` to rank `to` while receiving `receive_bytes` from rank `from`; either may be 0. */
    int32_t (*send_recv)(void *user, const void *sent, int64_t send_bytes, int32_t to, void *received,
                         int64_t receive_bytes, int32_t from, int32_t device_type, void *stream);
    void *user; /**< Passed to both. */
} unicon_communicator_t;

/**
 * Sets every field to its default: a single rank without callbacks.
 * @param[out] communicator the struct.
 * @param struct_size `sizeof *communicator`.
 * @return as unicon_context_options_init().
 */
UNICON_API unicon_status_t unicon_communicator_init(unicon_communicator_t *communicator, size_t struct_size);

/**
 * Fills a communicator whose callbacks are NCCL's, over the caller's communicator.
 *
 * NCCL is not linked: its functions are looked up in the libnccl that the process has loaded already, as it
 * must have to own an `ncclComm_t`. The NCCL communicator is borrowed and must outlive every context that uses
 * it. The callbacks serve device memory only, so that the context must be a CUDA one.
 * @param nccl_comm an `ncclComm_t`.
 * @param[in,out] communicator filled in; initialised before.
 * @return ::UNICON_ERROR_UNSUPPORTED if no NCCL is loaded, ::UNICON_ERROR_CUDA if NCCL refuses. Text: per thread.
 */
UNICON_API unicon_status_t unicon_communicator_nccl(void *nccl_comm, unicon_communicator_t *communicator);

/**
 * Told what a call that succeeds noticed and a person may want to know: rows that repeat, that are zero or that match nothing, an update
 * that was not kept, time that ran out.
 * @param text one sentence, UTF-8, valid during the callback.
 * @param user unicon_context_options_t::warning_user.
 */
typedef void (*unicon_warning_fn)(const char *text, void *user);

/** What a context is made of. Fill with unicon_context_options_init(). */
typedef struct unicon_context_options {
    size_t struct_size;       /**< Set by unicon_context_options_init(). */
    int32_t device_type;      /**< ::UNICON_DEVICE_CPU (default), ::UNICON_DEVICE_CUDA or ::UNICON_DEVICE_AUTO, the default of
                                   the program: a library takes a GPU only where it is told to. */
    int32_t device_id;        /**< Number of the CUDA device, default 0. 0 for the CPU. */
    void *stream;             /**< A borrowed `cudaStream_t` that outlives the context; NULL (default): the library's own. NULL for the CPU. */
    int32_t n_threads;        /**< CPU threads, 1 to 1024; 0 (default): what UNICON_THREADS, RAYON_NUM_THREADS, OMP_NUM_THREADS or
                                   SLURM_CPUS_PER_TASK says, the first that is set, else one for each core that the process may use. */
    int32_t precision;        /**< ::unicon_dtype of similarities and weights where features are not float64 (sums are always float32 or
                                   wider): ::UNICON_F32, ::UNICON_BF16 (on CPUs with AVX512-BF16) or, on CUDA, ::UNICON_F16. 0 (default): float32 on
                                   the CPU, float16 on CUDA. */
    uint64_t workspace_limit; /**< Bytes of sample-sized matrices that the context may hold at once, those of its weights handles
                                   included; a call that needs more is ::UNICON_ERROR_OUT_OF_MEMORY. 0 (default): no limit. */
    const unicon_allocator_t *allocator;       /**< Copied. NULL (default): the process's. */
    const unicon_communicator_t *communicator; /**< Copied. NULL (default): a single rank. */
    const int32_t *devices;   /**< Copied: the numbers of `n_devices` different CUDA devices of this machine, over which unicon_fit() and
                                   unicon_fit_best() share the rows out, a thread each, with NCCL between them where the process can
                                   load it (else through host memory; the same bits). The model depends on the number of devices by
                                   rounding only. Every other function works on the first of them. All matrices are in host memory;
                                   `device_type` is ::UNICON_DEVICE_CUDA, `device_id` 0, `stream` and `communicator` NULL;
                                   `workspace_limit` is that of each device, ::UNICON_REPORT_PEAK_BYTES that of the first. NULL
                                   (default): `device_id`. */
    int64_t n_devices;        /**< Length of `devices`, default 0. */
    unicon_warning_fn warning; /**< Called by the thread that called the library, before a call returns. NULL (default): none. */
    void *warning_user;       /**< Passed to it. */
} unicon_context_options_t;

/**
 * Sets every field to its default.
 * @param[out] options the struct.
 * @param struct_size `sizeof *options`.
 * @return ::UNICON_ERROR_INVALID_ARGUMENT for NULL or an impossible size. Text: per thread.
 */
UNICON_API unicon_status_t unicon_context_options_init(unicon_context_options_t *options, size_t struct_size);

/**
 * Makes a context.
 * @param options NULL for the defaults.
 * @param[out] context the new handle, for unicon_context_destroy().
 * @return ::UNICON_ERROR_NO_DEVICE or ::UNICON_ERROR_UNSUPPORTED if the device cannot be had. Text: per thread.
 */
UNICON_API unicon_status_t unicon_context_create(const unicon_context_options_t *options, unicon_context_t **context);

/**
 * Destroys a context. NULL is accepted. Must not be called while a call on it runs. Waits for its stream.
 * @param context the handle, or NULL.
 */
UNICON_API void unicon_context_destroy(unicon_context_t *context);

/**
 * The text of the last failure on this context, empty if there was none; a success does not clear it.
 * @param context NULL: the last failure of any call on this thread, of handles whose context is gone too. unicon_cancel() and
 *        unicon_cancel_clear() leave no text.
 * @param[out] buffer receives at most `capacity` bytes with the terminating NUL; may be NULL if capacity is 0.
 * @param capacity size of the buffer. A longer text is cut at a character boundary.
 * @return the length of the whole text without its NUL.
 */
UNICON_API size_t unicon_last_error(const unicon_context_t *context, char *buffer, size_t capacity);

/**
 * Ends one call on this context with ::UNICON_ERROR_CANCELLED: the one in progress, at its next panel of rows, or where none is, the
 * next one at once, so that no cancellation is lost to a call that is just about to begin. A call that comes to its end all the
 * same uses it up. May be called from any thread and from a signal handler.
 * @param context the context.
 * @return ::UNICON_ERROR_INVALID_ARGUMENT if context is NULL.
 */
UNICON_API unicon_status_t unicon_cancel(unicon_context_t *context);

/**
 * Takes back a cancellation that has ended no call yet. May be called from any thread and from a signal handler.
 * @param context the context.
 * @return ::UNICON_ERROR_INVALID_ARGUMENT if context is NULL.
 */
UNICON_API unicon_status_t unicon_cancel_clear(unicon_context_t *context);

/**
 * The kind of device that the context computes on: ::UNICON_DEVICE_CPU or ::UNICON_DEVICE_CUDA; 0 for NULL.
 * @param context the context.
 * @return a ::unicon_device_type or 0.
 */
UNICON_API int32_t unicon_context_device_type(const unicon_context_t *context);

/** @} */
/** @name What is asked: loss, positives, kernel */
/** @{ */

/** Members of the generalised contrastive loss. */
enum unicon_loss_kind {
    UNICON_LOSS_CLIP = 0,          /**< psi = exp(t/tau), phi = tau log: InfoNCE, CLIP; SupCon when many-to-many. */
    UNICON_LOSS_SIGMOID = 1,       /**< psi = softplus(t/tau), phi = id: SigLIP-style. */
    UNICON_LOSS_TRIPLET_HARD = 2,  /**< psi = max(t + margin, 0), phi = id. */
    UNICON_LOSS_TRIPLET_SMOOTH = 3, /**< psi' = tau sigmoid((margin - t)/tau), phi = id. */
    UNICON_LOSS_CUSTOM = 4          /**< The psi and phi of ::unicon_loss_t::family. */
};

/** Which pairs `eps_pos` weighs. */
enum unicon_eps_by {
    UNICON_EPS_BY_POSITIVES = 0, /**< The positives. */
    UNICON_EPS_BY_DIAGONAL = 1   /**< The literal diagonal i == j whatever the positives are, as the authors' code does. */
};

/** The value of ::unicon_loss_t::nu that stands for the usual one of the kind: 1, or 1.5 for sigmoid. It is -DBL_MAX. */
#define UNICON_NU_USUAL (-1.7976931348623157e+308)

/**
 * psi or phi of a loss of one's own, on an array.
 *
 * Called from threads of the library, see unicon_family_t::concurrent, with at most 32,768 arguments. It must not call the library
 * with the context that is calling it.
 * @param t `count` arguments: of psi `s_ij - nu s_ik` and `(1 - nu) s_ik`, of phi `u_ik`.
 * @param[out] value `count` values, all finite.
 * @param[out] derivative `count` derivatives with respect to the argument, all finite.
 * @param count at least 1.
 * @param user unicon_family_t::user.
 * @return 0, or any other number, which ends the call in progress with ::UNICON_ERROR_NUMERICAL. So does a value or a derivative that is
 *         not finite; the text then names the function and the argument.
 */
typedef int32_t (*unicon_family_fn)(const double *t, double *value, double *derivative, int64_t count, void *user);

/** The functions of a loss of one's own. */
typedef struct unicon_family {
    size_t struct_size;   /**< Set by unicon_family_init(). */
    const char *name;     /**< What models record, UTF-8, copied. NULL (default): "custom". */
    unicon_family_fn psi; /**< psi. No default. */
    unicon_family_fn phi; /**< phi. No default. */
    void *user;           /**< Passed to both, default NULL. */
    int32_t concurrent;   /**< Boolean, default 0: one call at a time, of both functions together, from any thread of the library. 1: several
                               threads may be within the functions at once, as many as the context has. */
    int32_t reserved;     /**< 0. */
} unicon_family_t;

/**
 * Sets every field to its default.
 * @param[out] family the struct.
 * @param struct_size `sizeof *family`.
 * @return as unicon_context_options_init().
 */
UNICON_API unicon_status_t unicon_family_init(unicon_family_t *family, size_t struct_size);

/**
 * A member of the loss
 * `L = 1/(2 n_x) sum_i 1/|P(i)| sum_{k in P(i)} phi(u_ik)` plus the same over columns, with
 * `u_ik = eps_pos psi((1 - nu) s_ik) + sum_{j not in P(i)} eps_neg psi(s_ij - nu s_ik)`.
 *
 * For clip phi is tau log: the loss and its gradients with respect to embeddings and similarities are `tau` times those of
 * open_clip and of CLIP's paper (the mean of two cross-entropies of logits `s / tau`), with nu = 1, both eps 1 and the diagonal.
 * Divide them by `tau` to compare, or to replace that loss at the same learning rate.
 */
typedef struct unicon_loss {
    size_t struct_size; /**< Set by unicon_loss_init(). */
    int32_t kind;       /**< ::unicon_loss_kind. */
    int32_t eps_by;     /**< ::unicon_eps_by, default ::UNICON_EPS_BY_POSITIVES. */
    double tau;         /**< Temperature, at least 0.001, default 0.07. Not used by triplet_hard and custom. */
    double nu;          /**< Weight of the positive, finite. Default ::UNICON_NU_USUAL: that of `kind` at the time of use, 1, or 1.5 for
                             sigmoid. */
    double margin;      /**< Margin of the triplet members, any finite value, default 0.5. */
    double eps_pos;     /**< >= 0, default 1. 0 gives the decoupled loss. */
    double eps_neg;     /**< >= 0, default 1. */
    double log_eps;     /**< Added inside clip's logarithm, >= 0, default 0 (which the other kinds need). The authors' 1e-8 spoils small tau. */
    const unicon_family_t *family; /**< ::UNICON_LOSS_CUSTOM: psi and phi, else NULL (default). The struct is read during the call that
                                        takes the loss; its functions and `user` must stay until that call returns, or until the
                                        weights or the stream that it made are destroyed. Models record the name alone. On the CPU;
                                        a CUDA context answers ::UNICON_ERROR_UNSUPPORTED. */
} unicon_loss_t;

/**
 * Sets every field to the defaults of a kind.
 * @param[out] loss the struct.
 * @param struct_size `sizeof *loss`.
 * @param kind the kind.
 * @return ::UNICON_ERROR_INVALID_ARGUMENT for NULL, an impossible size or an unknown kind. Text: per thread.
 */
UNICON_API unicon_status_t unicon_loss_init(unicon_loss_t *loss, size_t struct_size, int32_t kind);

/** How positives are told. */
enum unicon_positives_kind {
    UNICON_POSITIVES_DIAGONAL = 0, /**< x_i matches y_i; n_x = n_y. */
    UNICON_POSITIVES_GROUPS = 1,   /**< x_i matches y_j where their group ids are equal. */
    UNICON_POSITIVES_CSR = 2       /**< x_i matches `indices[indptr[i] .. indptr[i + 1]]`. */
};

/**
 * Which pairs match, at least one. A NULL pointer to this struct means the diagonal. Rows and columns without a
 * positive are allowed; they contribute nothing and are counted. All arrays lie in host memory.
 */
typedef struct unicon_positives {
    size_t struct_size;      /**< Set by unicon_positives_init(). */
    int32_t kind;            /**< ::unicon_positives_kind. */
    int32_t reserved;        /**< 0. */
    const int64_t *x_groups; /**< GROUPS: n_x ids, any values. Else NULL. */
    const int64_t *y_groups; /**< GROUPS: n_y ids. Else NULL. */
    const int64_t *indptr;   /**< CSR: n_x + 1 offsets, from 0, not decreasing. Else NULL. */
    const int64_t *indices;  /**< CSR: `nnz` columns below n_y, each at most once in a row, in any order. Else NULL. */
    int64_t nnz;             /**< CSR: `indptr[n_x]`. Else 0. */
} unicon_positives_t;

/**
 * Sets every field to its default, the diagonal.
 * @param[out] positives the struct.
 * @param struct_size `sizeof *positives`.
 * @return as unicon_context_options_init().
 */
UNICON_API unicon_status_t unicon_positives_init(unicon_positives_t *positives, size_t struct_size);

/**
 * Two matrices and which of their rows match: what a fit trains on or is judged by, embeddings whose weights, gradients or recall are
 * asked for. Made by unicon_pairs().
 */
typedef struct unicon_pairs {
    size_t struct_size;                  /**< Set by unicon_pairs(). */
    const unicon_matrix_t *x;            /**< n_x by d1: features, or embeddings (n_x by r, called `zx` in messages). */
    const unicon_matrix_t *y;            /**< n_y by d2: features, or embeddings (n_y by r, called `zy`). */
    const unicon_positives_t *positives; /**< NULL for the diagonal (n_x = n_y). */
} unicon_pairs_t;

/**
 * Pairs of two matrices; `positives` NULL for the diagonal.
 * @param x not NULL.
 * @param y not NULL.
 * @param positives the struct.
 * @return the pairs.
 */
static inline unicon_pairs_t unicon_pairs(const unicon_matrix_t *x, const unicon_matrix_t *y,
                                          const unicon_positives_t *positives)
{
    unicon_pairs_t pairs;
    pairs.struct_size = sizeof pairs;
    pairs.x = x;
    pairs.y = y;
    pairs.positives = positives;
    return pairs;
}

/** Kernels k(a, b); theta is the angle between a and b. */
enum unicon_kernel_kind {
    UNICON_KERNEL_LINEAR = 0,     /**< a . b */
    UNICON_KERNEL_COSINE = 1,     /**< cos theta */
    UNICON_KERNEL_ANGULAR = 2,    /**< 1 - theta/pi */
    UNICON_KERNEL_ARCCOS = 3,     /**< First-order arc-cosine of unit vectors: (sin theta + (pi - theta) cos theta)/pi. */
    UNICON_KERNEL_EXP_COSINE = 4, /**< exp(beta cos theta) */
    UNICON_KERNEL_RBF = 5,        /**< exp(-gamma |a - b|^2) */
    UNICON_KERNEL_MATERN32 = 6,   /**< (1 + t) exp(-t), t = sqrt(3) |a - b| / lengthscale */
    /**
     * Of unicon_fit(): any kernel, whose values take the place of features. x and y are the Gram matrices of the rows that train, n_x by
     * n_x and n_y by n_y; what is encoded, or validated on, are values with all of these. The model is a linear one of these values.
     */
    UNICON_KERNEL_PRECOMPUTED = 7
};

/** In ::unicon_model_description_t: a linear model, which has no kernel. */
#define UNICON_KERNEL_NONE (-1)

/** A kernel and its parameters. */
typedef struct unicon_kernel {
    size_t struct_size; /**< Set by unicon_kernel_init(). */
    int32_t kind;       /**< ::unicon_kernel_kind. */
    int32_t reserved;   /**< 0. */
    double beta;        /**< exp_cosine: from -80 to 80, default 1. */
    double gamma;       /**< rbf: from 1e-100 to 1e100, default 1. */
    double lengthscale; /**< matern32: from 1e-100 to 1e100, default 1. */
    double cos_clamp;   /**< Cosines are clamped to +-(1 - cos_clamp), 0 <= cos_clamp < 1, default 0. The authors' code: 1e-5. */
} unicon_kernel_t;

/**
 * Sets every field to the defaults of a kind.
 * @param[out] kernel the struct.
 * @param struct_size `sizeof *kernel`.
 * @param kind the kind.
 * @return ::UNICON_ERROR_INVALID_ARGUMENT for NULL, an impossible size or an unknown kind. Text: per thread.
 */
UNICON_API unicon_status_t unicon_kernel_init(unicon_kernel_t *kernel, size_t struct_size, int32_t kind);

/** @} */
/** @name Similarity weights: the primitive */
/** @{ */

/** S(gamma) = -dL/ds of a batch, as an operator: it holds the embeddings and O(n) statistics, never n by n. */
typedef struct unicon_weights unicon_weights_t;

/** Which weights are asked for. */
typedef struct unicon_weights_options {
    size_t struct_size;        /**< Set by unicon_weights_options_init(). */
    const unicon_loss_t *loss; /**< NULL (default): clip with its defaults. */
    int64_t n_negatives;       /**< Negatives sampled per row and column, which stand for all; 0 (default): all of them, exact. */
    uint64_t seed;             /**< Of the samples, default 0. */
} unicon_weights_options_t;

/**
 * Sets every field to its default.
 * @param[out] options the struct.
 * @param struct_size `sizeof *options`.
 * @return as unicon_context_options_init().
 */
UNICON_API unicon_status_t unicon_weights_options_init(unicon_weights_options_t *options, size_t struct_size);

/**
 * Computes the statistics of S(gamma) and the loss of a batch of embeddings.
 * @param context the context; the handle computes on it from now on.
 * @param options NULL for the defaults.
 * @param pairs embeddings, n_x by r and n_y by r, rows of norm at most 1 (within rounding): s_ij = zx_i . zy_j. Copied.
 * @param[out] weights the new handle, for unicon_weights_destroy().
 * @return any status. Synchronous.
 */
UNICON_API unicon_status_t unicon_weights_create(unicon_context_t *context, const unicon_weights_options_t *options,
                                                 const unicon_pairs_t *pairs, unicon_weights_t **weights);

/**
 * As unicon_weights_create(), of similarities that are given: S of any n_x by n_y matrix, for small n.
 * @param context as there.
 * @param options NULL for the defaults.
 * @param similarity n_x by n_y, values in [-1, 1] (within rounding). Copied.
 * @param positives NULL for the diagonal.
 * @param[out] weights the new handle, for unicon_weights_destroy().
 * @return any status. Synchronous.
 */
UNICON_API unicon_status_t unicon_weights_create_similarity(unicon_context_t *context,
                                                            const unicon_weights_options_t *options,
                                                            const unicon_matrix_t *similarity,
                                                            const unicon_positives_t *positives,
                                                            unicon_weights_t **weights);

/**
 * Destroys the weights. NULL is accepted.
 * @param weights the handle, or NULL.
 */
UNICON_API void unicon_weights_destroy(unicon_weights_t *weights);

/**
 * The loss L = L_x + L_y.
 * @param weights the weights.
 * @param[out] value L. May be NULL.
 * @param[out] rows L_x, the share of the rows. May be NULL.
 * @param[out] cols L_y, the share of the columns. May be NULL.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_weights_loss(const unicon_weights_t *weights, double *value, double *rows, double *cols);

/**
 * How many anchors have no positive and so contribute nothing.
 * @param weights the weights.
 * @param[out] rows number of rows without one. May be NULL.
 * @param[out] cols number of columns without one. May be NULL.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_weights_unmatched(const unicon_weights_t *weights, int64_t *rows, int64_t *cols);

/**
 * The explicit S, for small n.
 * @param weights the weights.
 * @param[out] s n_x by n_y, float32 or float64.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_weights_dense(unicon_weights_t *weights, const unicon_matrix_t *s);

/**
 * S V.
 * @param weights the weights.
 * @param v n_y by c.
 * @param[out] sv n_x by c, float32 or float64.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_weights_apply(unicon_weights_t *weights, const unicon_matrix_t *v, const unicon_matrix_t *sv);

/**
 * S^T U.
 * @param weights the weights.
 * @param u n_x by c.
 * @param[out] stu n_y by c, float32 or float64.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_weights_apply_transpose(unicon_weights_t *weights, const unicon_matrix_t *u, const unicon_matrix_t *stu);

/**
 * The contrastive cross-covariance C = X^T S Y.
 * @param weights the weights.
 * @param x n_x by d1.
 * @param y n_y by d2.
 * @param[out] c d1 by d2, float32 or float64.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_weights_cross(unicon_weights_t *weights, const unicon_matrix_t *x,
                                                const unicon_matrix_t *y, const unicon_matrix_t *c);

/**
 * The loss of a batch and its gradients with respect to the embeddings: a loss layer for neural encoders.
 *
 * The similarity is s = zx zy^T as given; normalise before, and let the framework differentiate that step.
 * Memory O(n r); no n by n matrix is stored.
 * The value and gradients of clip are `tau` times those of open_clip, see ::unicon_loss_t. The derivative with respect to the
 * temperature needs no further call: for clip with dL/dtau = (L - sum_ij zx_ij dzx_ij) / tau, for sigmoid with
 * dL/dtau = -sum_ij zx_ij dzx_ij / tau; and d(L/tau)/d(1/tau) of clip, open_clip's loss by its logit scale, is sum_ij zx_ij dzx_ij.
 * @param context the context.
 * @param options NULL for the defaults.
 * @param pairs embeddings, n_x by r and n_y by r, rows of norm at most 1 (within rounding).
 * @param[out] value the loss, in host memory. May be NULL.
 * @param[out] dzx dL/dzx = -S zy, n_x by r, any dtype. May be NULL.
 * @param[out] dzy dL/dzy = -S^T zx, n_y by r, any dtype. May be NULL.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_contrastive_grad(unicon_context_t *context, const unicon_weights_options_t *options,
                                                   const unicon_pairs_t *pairs, double *value,
                                                   const unicon_matrix_t *dzx, const unicon_matrix_t *dzy);

/**
 * Bytes of sample-sized matrices that unicon_weights_create() and unicon_contrastive_grad() hold at most.
 * @param context the context.
 * @param n_x rows of X.
 * @param n_y rows of Y.
 * @param r embedding dimension.
 * @param dtype of the embeddings.
 * @param[out] bytes set to the number. Nothing is allocated.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_weights_workspace(unicon_context_t *context, int64_t n_x, int64_t n_y, int64_t r,
                                                    int32_t dtype, uint64_t *bytes);

/** @} */
/** @name Models */
/** @{ */

/** A pair of encoders. Immutable. */
typedef struct unicon_model unicon_model_t;

/** The two sides of a model. */
enum unicon_side {
    UNICON_SIDE_X = 0, /**< The encoder f_x. */
    UNICON_SIDE_Y = 1  /**< The encoder f_y. */
};

/** What a model is; filled by unicon_model_describe(). */
typedef struct unicon_model_description {
    size_t struct_size; /**< Set by the caller to `sizeof` the struct before the call. */
    int64_t d1;         /**< Dimension of X. */
    int64_t d2;         /**< Dimension of Y. */
    int64_t r;          /**< Dimension of the embeddings, of all members together. */
    int32_t kernel_x;   /**< ::unicon_kernel_kind of the feature map of X, ::UNICON_KERNEL_NONE for a linear model. */
    int32_t kernel_y;   /**< The same of Y. */
    int64_t members;    /**< Number of solutions whose similarities are averaged: 1, or the batches of a batched kernel fit. */
} unicon_model_description_t;

/**
 * A linear model from given encoders f_x(x) = F1 x/|F1 x|, f_y(y) = F2 y/|F2 y|, for instance as a warm start.
 * @param context the context.
 * @param f1 r by d1. Copied.
 * @param f2 r by d2. Copied.
 * @param[out] model the new handle, for unicon_model_destroy().
 * @return any status.
 */
UNICON_API unicon_status_t unicon_model_create_linear(unicon_context_t *context, const unicon_matrix_t *f1,
                                                      const unicon_matrix_t *f2, unicon_model_t **model);

/**
 * Destroys a model. NULL is accepted.
 * @param model the handle, or NULL.
 */
UNICON_API void unicon_model_destroy(unicon_model_t *model);

/**
 * Dimensions and kind of a model. Text of a failure: per thread.
 * @param model the model.
 * @param description the struct.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_model_describe(const unicon_model_t *model, unicon_model_description_t *description);

/**
 * The encoder matrix F of a linear model, with any whitening folded in: embeddings are F x + b, divided by its length.
 * @param context the context.
 * @param model the model.
 * @param side ::unicon_side.
 * @param[out] f r by d1 (or d2), float32 or float64.
 * @return ::UNICON_ERROR_UNSUPPORTED for a kernel model, one of several members or a compressed one.
 */
UNICON_API unicon_status_t unicon_model_encoder(unicon_context_t *context, const unicon_model_t *model, int32_t side,
                                                const unicon_matrix_t *f);

/**
 * The bias b of a linear model, which takes the mean out of features; 0 where nothing is taken out.
 * @param context the context.
 * @param model the model.
 * @param side ::unicon_side.
 * @param[out] b r by 1, float32 or float64.
 * @return as unicon_model_encoder().
 */
UNICON_API unicon_status_t unicon_model_bias(unicon_context_t *context, const unicon_model_t *model, int32_t side,
                                             const unicon_matrix_t *b);

/**
 * Embeds features: unit rows, or zero where the encoder gives exactly zero, whatever the scale of the features. Rows of a compressed
 * model are not of unit length: their products are the similarities.
 * @param context the context.
 * @param model the model.
 * @param side ::unicon_side.
 * @param in n by d1 (or d2); n may be 0.
 * @param[out] out n by r, any dtype.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_model_encode(unicon_context_t *context, const unicon_model_t *model, int32_t side,
                                               const unicon_matrix_t *in, const unicon_matrix_t *out);

/**
 * The model with embeddings of r columns whose products, over all pairs of the given rows, are the nearest to those of its own that r
 * columns can have, in the Frobenius norm. For models of several members, whose embeddings stand side by side. The products are the
 * similarities that the model ranks by; rows are not scaled to unit length, which would give other similarities. The rows need not
 * match each other; training rows are a good choice. On a context with ranks every rank does it by the rows that it gives.
 * @param context the context.
 * @param model the model; it is not changed.
 * @param x n_x by d1.
 * @param y n_y by d2.
 * @param r columns, 1 to the width of the model's embeddings.
 * @param[out] error the relative Frobenius error over all pairs of the rows, from the singular values that are left out. May be NULL.
 * @param[out] compressed the new handle, for unicon_model_destroy().
 * @return ::UNICON_ERROR_INVALID_ARGUMENT for r out of range, ::UNICON_ERROR_NUMERICAL where all products of the rows are 0.
 */
UNICON_API unicon_status_t unicon_model_compress(unicon_context_t *context, const unicon_model_t *model,
                                                 const unicon_matrix_t *x, const unicon_matrix_t *y, int64_t r,
                                                 double *error, unicon_model_t **compressed);

/**
 * Cosine similarities of all pairs: of several members their weighted mean, and of a compressed model what is nearest to it.
 * @param context the context.
 * @param model the model.
 * @param x n_x by d1; n_x may be 0.
 * @param y n_y by d2; n_y may not be 0.
 * @param[out] out n_x by n_y, float32 or float64.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_model_similarity(unicon_context_t *context, const unicon_model_t *model,
                                                   const unicon_matrix_t *x, const unicon_matrix_t *y,
                                                   const unicon_matrix_t *out);

/**
 * Writes a model as a safetensors file: written aside and renamed, so that `path` is never half a file.
 * @param context the context.
 * @param model the model.
 * @param path the file, NUL-terminated UTF-8.
 * @return ::UNICON_ERROR_IO if it cannot be written.
 */
UNICON_API unicon_status_t unicon_model_save(unicon_context_t *context, const unicon_model_t *model, const char *path);

/**
 * Reads a model that unicon_model_save() or the `unicon` program wrote.
 * @param context the context.
 * @param path the file, NUL-terminated UTF-8.
 * @param model the model.
 * @return ::UNICON_ERROR_IO if it cannot be read, ::UNICON_ERROR_BAD_FILE if it is not a model.
 */
UNICON_API unicon_status_t unicon_model_load(unicon_context_t *context, const char *path, unicon_model_t **model);

/**
 * The bytes that unicon_model_save() writes, to be kept or sent elsewhere; equal models give equal bytes.
 *
 * Called twice: first with `buffer` NULL and `capacity` 0 for the size, then with a buffer of that size. Needs no context; text of
 * a failure: per thread.
 * @param model the model.
 * @param[out] buffer receives the bytes. May be NULL if `capacity` is 0.
 * @param capacity bytes of the buffer: 0, or at least the size.
 * @param[out] size the number of bytes. Not NULL.
 * @return ::UNICON_ERROR_INVALID_ARGUMENT if the buffer is too small, with the size in its text.
 */
UNICON_API unicon_status_t unicon_model_to_bytes(const unicon_model_t *model, void *buffer, int64_t capacity, int64_t *size);

/**
 * A model from the bytes of unicon_model_to_bytes() or of a model file. They may come from a stranger: they are checked whole.
 * Needs no context; text of a failure: per thread.
 * @param data the bytes, in host memory. Not needed afterwards.
 * @param size their number, at least 1.
 * @param[out] model the new handle, for unicon_model_destroy().
 * @return ::UNICON_ERROR_BAD_FILE if they are not a model.
 */
UNICON_API unicon_status_t unicon_model_from_bytes(const void *data, int64_t size, unicon_model_t **model);

/** @} */
/** @name Solvers */
/** @{ */

/** How singular values are shared between the encoders. */
enum unicon_factorization {
    UNICON_FACTORIZATION_SQRT = 0,       /**< F1 = Sigma^1/2 U^T, F2 = Sigma^1/2 V^T. */
    UNICON_FACTORIZATION_ORTHONORMAL = 1,/**< F1 = U^T, F2 = V^T. */
    UNICON_FACTORIZATION_POWER = 2       /**< F1 = Sigma^p U^T, F2 = Sigma^p V^T with p = `power`. */
};

/** How the top r singular triplets are found. */
enum unicon_svd {
    UNICON_SVD_FULL = 0,      /**< Full decomposition. */
    UNICON_SVD_RANDOMIZED = 1 /**< Randomized range finder with power iterations (Halko et al.). */
};

/** What the first similarity is. */
enum unicon_init {
    UNICON_INIT_ZEROS = 0, /**< s = 0: the first C is the centred cross-covariance. Deterministic, and the better default. */
    UNICON_INIT_RANDOM = 1,/**< Random encoders, uniform in +-1/sqrt(d), from `seed`. */
    UNICON_INIT_SIMILARITY = 2,/**< The matrix `similarity`. */
    UNICON_INIT_GAUSSIAN = 3   /**< Independent standard normal similarities from `seed`, of each batch its own. For small n or small batches. */
};

/** Whether the mean of each side's features is taken out of them, and folded into its encoder as a bias. */
enum unicon_center {
    UNICON_CENTER_AUTO = 0, /**< Where it is more than 30 times as long as the spread of the rows about it. unicon_fit_best()
                                 also judges it on the validation pairs. */
    UNICON_CENTER_ON = 1,   /**< Always. */
    UNICON_CENTER_OFF = 2   /**< Never. */
};

/**
 * Schedules for unicon_fit_options_preset(). The schedule that needs no tuning is a call of its own: unicon_fit_best(). Those of the
 * paper (arXiv 2604.16678) are what the authors' code runs; they neither whiten nor centre, and start from random encoders unless said.
 */
enum unicon_preset {
    UNICON_PRESET_DEFAULT = 0, /**< What unicon_fit_options_init() sets, and `unicon fit --preset global` does: the exact global batch. */
    UNICON_PRESET_PAPER = 1,   /**< ::UNICON_PRESET_PAPER_KERNEL where `kernel` is set, else ::UNICON_PRESET_PAPER_LINEAR. */
    UNICON_PRESET_PAPER_LINEAR = 2, /**< Section 4.1: r = 10, tau = nu = 1, one update of batches of 30 of equal weight (n must be 30 or
                                         more); rows beyond the last whole batch are dropped. */
    UNICON_PRESET_PAPER_KERNEL = 3, /**< Sections 4.1, C.6, C.7: r = 10, tau = nu = 1, batches of 30 fused by validation accuracy, at most 10
                                         updates from zeros with `tol` 1e-3, angular kernels, cosines clamped to 1 - 1e-5. */
    UNICON_PRESET_PAPER_FLICKR = 4, /**< Flickr30k, Table 1: r = 128, tau = 1, nu = 2, orthonormal factors, two updates of one batch of all. */
    UNICON_PRESET_PAPER_COCO_CLIP = 5, /**< MSCOCO with CLIP, Table 2: r = 512, tau = 0.07, nu = 1.5, orthonormal factors, two updates of the
                                         first 1,000 rows, `ridge` 10, `scale_inputs`. */
    UNICON_PRESET_PAPER_COCO_RESNET = 6 /**< MSCOCO with ResNet-50, Table 2: r = 256, tau = 0.07, nu = 1.5, orthonormal factors, two updates of
                                         one batch of all, `rho` 0.1, `ridge` 1e-4, `scale_inputs`. */
};

/** What weighs the solutions of mini-batches by the validation pairs: the weight is max(score, 0), and equal where all are 0. */
enum unicon_batch_score {
    UNICON_BATCH_SCORE_ACCURACY = 0,       /**< Matching accuracy, x to y: the paper's, on synthetic data. */
    UNICON_BATCH_SCORE_EQUAL = 1,          /**< All the same, whatever validation pairs say. */
    UNICON_BATCH_SCORE_RECALL = 2,         /**< The mean of Recall@1 of both directions: the authors', on real data. */
    UNICON_BATCH_SCORE_RECIPROCAL_RANK = 3, /**< The mean reciprocal rank, the mean of both directions. */
    UNICON_BATCH_SCORE_LOSS = 4            /**< exp(-L) of the fit's loss L of the validation pairs. */
};

/** Phases that unicon_progress_t reports. */
enum unicon_phase {
    UNICON_PHASE_FEATURES = 0, /**< Feature map, whitening, Gram matrices. */
    UNICON_PHASE_STATISTICS = 1, /**< First pass over the similarities: the sums and the loss, panel by panel. */
    UNICON_PHASE_WEIGHTS = 2,  /**< Second pass: X^T S Y or gradients, panel by panel. */
    UNICON_PHASE_ITERATION = 3,/**< A spectral update has ended, `loss` being the one it started from; or a damped update or a step of
                                    refinement, `loss` being the one it reached. */
    UNICON_PHASE_RETRIEVAL = 4 /**< Search or recall. */
};

/** Where a fit stands. */
typedef struct unicon_progress {
    size_t struct_size;   /**< Size of the library's struct. */
    int32_t phase;        /**< ::unicon_phase. */
    int32_t reserved;     /**< 0. */
    int64_t done;         /**< Panels (updates or steps, for ::UNICON_PHASE_ITERATION) finished. */
    int64_t total;        /**< Panels, updates or steps in all. */
    double loss;          /**< The last loss computed, NaN before the first. */
    double seconds;       /**< Since the call began. */
} unicon_progress_t;

/**
 * Called between iterations and panels, on the thread that called the library.
 * @return 0 to go on, anything else to cancel.
 */
typedef int32_t (*unicon_progress_fn)(const unicon_progress_t *progress, void *user);

/** Damped updates `F1^T F2 <- [F1^T F2 + eta C]_r` with a line search on the loss, which never rises. */
typedef struct unicon_damping {
    size_t struct_size; /**< Set by unicon_damping_init(). */
    double first;       /**< First step tried, as |eta C| / |F1^T F2|, > 0, default 1. */
    int64_t halvings;   /**< Halvings of a step before the iteration counts as converged, >= 0, default 12. */
    double tol;         /**< Stop when a step lowers the loss by less than this share, >= 0, default 1e-4. */
} unicon_damping_t;

/**
 * Sets every field to its default.
 * @param[out] damping the struct.
 * @param struct_size `sizeof *damping`.
 * @return as unicon_context_options_init().
 */
UNICON_API unicon_status_t unicon_damping_init(unicon_damping_t *damping, size_t struct_size);

/** Refinement by L-BFGS on both encoders, with the exact gradient of the loss (or of its sampled estimate). */
typedef struct unicon_refine {
    size_t struct_size;    /**< Set by unicon_refine_init(). */
    int64_t max_steps;     /**< Steps at most, >= 0, default 30. */
    double tol;            /**< A stage ends when a step lowers the loss by less than this share, >= 0, default 1e-4. */
    int64_t memory;        /**< Steps that L-BFGS remembers, at least 1, default 10. */
    int64_t patience;      /**< Steps without a better score on the validation pairs before a stage ends, at least 1, default 3. */
    double first_step;     /**< Length of the first step as a share of the encoders' norm, >= 0, default 0.07. */
    const int64_t *stages; /**< Negatives per row in each stage in turn, 0 for all of them. Every sampled stage draws its own, with
                                `seed`, and keeps it. NULL (default): one stage with all. unicon_fit_best() makes its own. */
    int64_t n_stages;      /**< Length of `stages`; 0 for NULL. */
} unicon_refine_t;

/**
 * Sets every field to its default.
 * @param[out] refine the struct.
 * @param struct_size `sizeof *refine`.
 * @return as unicon_context_options_init().
 */
UNICON_API unicon_status_t unicon_refine_init(unicon_refine_t *refine, size_t struct_size);

/**
 * Descent on mini-batches: the fast part of unicon_fit_best() on large data (at least four batches). A step is a share of the encoders'
 * norm along the averaged gradient; the negatives of a batch stand for all.
 */
typedef struct unicon_minibatch {
    size_t struct_size; /**< Set by unicon_minibatch_init(). */
    int64_t batch;      /**< Matching pairs in a batch, at least 2, default 1024; 0: no mini-batches. */
    int64_t epochs;     /**< Passes over the data, at least 1, default 4. */
    int64_t min_steps;  /**< Steps at least, >= 0, default 100. */
    int64_t max_steps;  /**< Steps at most, whatever the epochs; 0 (default): no limit. */
    double rate;        /**< Length of the first step as a share of the encoders' norm, > 0, default 0.1; falls to 0 along a half cosine. */
    double momentum;    /**< Share of the past in the averaged gradient, in [0, 1), default 0.5. */
    int64_t patience;   /**< Judgements (two an epoch) without a better score on the validation pairs before it ends, >= 0, default 4. */
} unicon_minibatch_t;

/**
 * Sets every field to its default.
 * @param[out] minibatch the struct.
 * @param struct_size `sizeof *minibatch`.
 * @return as unicon_context_options_init().
 */
UNICON_API unicon_status_t unicon_minibatch_init(unicon_minibatch_t *minibatch, size_t struct_size);

/** unicon_fit_options_t::n_iters: the fit decides. */
#define UNICON_UPDATES_AUTO (-1)
/** unicon_fit_options_t::n_landmarks: every sample, exact, O(n^2) memory. */
#define UNICON_LANDMARKS_ALL (-1)
/** unicon_fit_options_t::whiten: not whitened. */
#define UNICON_WHITEN_NONE (-1.0)

/** Everything a fit can be told. Fill with unicon_fit_options_init() and set at least `r`. */
typedef struct unicon_fit_options {
    size_t struct_size;             /**< Set by unicon_fit_options_init(). */
    int64_t r;                      /**< Dimension of the embeddings, 1 to min(d1, d2) (of the feature maps for kernels). No default. */
    const unicon_loss_t *loss;      /**< NULL (default): clip with its defaults. */
    const unicon_kernel_t *kernel;  /**< Of both sides; NULL (default): the linear solver. */
    int64_t n_landmarks;            /**< Kernel: Nystrom reference points; 0 (default): 512, at most n, and with `batch_size` all rows of
                                         a batch; or ::UNICON_LANDMARKS_ALL. Without a kernel 0. */
    const int64_t *landmarks;       /**< Kernel: the `n_landmarks` rows of X and of Y to use; NULL (default): drawn with `seed`. */
    double kernel_ridge;            /**< Kernel: Tikhonov ridge on K, >= 0, default 1e-6. */
    int64_t n_iters;                /**< Spectral updates; ::UNICON_UPDATES_AUTO (default): 2, of which the second is kept where it lowers the loss (one more
                                         pass), and 1 with `whiten` (a second one ruins a whitened fit); 2 where damped. 0, only with `refine`: a warm or random start is refined as it is. */
    double tol;                     /**< Stop when F1^T F2 moves less (Frobenius norm), >= 0, default 0: never. */
    double rho;                     /**< Divides C, > 0, default 1. */
    double ridge;                   /**< Added to the leading diagonal of F1^T F2 before its last SVD, >= 0, default 0. */
    int32_t factorization;          /**< ::unicon_factorization, default sqrt. */
    int32_t svd;                    /**< ::unicon_svd, default full. */
    int32_t init;                   /**< ::unicon_init, default zeros. Must be that with a warm start. */
    int32_t scale_inputs;           /**< Boolean, default 0: build C from x_i/|F1 x_i| and y_j/|F2 y_j|. */
    int32_t final_loss;             /**< Boolean, default 1: evaluate the loss of the fitted encoders, one more pass. */
    int32_t drop_trailing;          /**< Boolean, default 0: drop rows beyond the last whole batch, as the authors do, instead of
                                         making the batches slightly larger. */
    double power;                   /**< Power p >= 0 for ::UNICON_FACTORIZATION_POWER, default 0.5; not used otherwise. */
    const unicon_matrix_t *similarity; /**< n_x by n_y for ::UNICON_INIT_SIMILARITY, any finite values, else NULL (default). For small n. */
    double whiten;                  /**< Shrinkage lambda >= 0 of the whitening, or ::UNICON_WHITEN_NONE (default). */
    int64_t batch_size;             /**< 0 (default): the exact global batch. Else 2 to n: one solution per batch, averaged. */
    int64_t n_batches;              /**< Use only the first so many batches; 0 (default): all. */
    int64_t n_negatives;            /**< Negatives sampled per row, with `seed`; 0 (default): all of them, exact. */
    uint64_t seed;                  /**< Of everything random, default 0. */
    double growth;                  /**< Sampled negatives of an update as a multiple of those of the update before, >= 1, default 1. */
    int32_t exact_last;             /**< Boolean, default 0: the last update sees all negatives whatever is sampled before. */
    int32_t center;                 /**< ::unicon_center, default auto. A warm start's encoders come with what they take out. */
    const unicon_pairs_t *validation; /**< Held-out pairs that weigh the solutions of batches and end a refinement; NULL (default): none. */
    const unicon_model_t *warm_start; /**< A linear model of the same dimensions to begin from (not with a kernel or whitening); NULL
                                         (default): none. */
    const unicon_damping_t *damping;/**< NULL (default): plain updates. Else one plain update, then at most `n_iters` damped ones. Not
                                         with batches or `ridge`. */
    const unicon_refine_t *refine;  /**< NULL (default): none. Else the result is refined; validation pairs choose the best step. Not
                                         with batches. */
    const char *checkpoint;         /**< File that holds the state of the refinement after every step, and from which an interrupted one
                                         continues; NULL (default): none. A file of another fit is ::UNICON_ERROR_BAD_FILE. */
    double budget;                  /**< Seconds that the call may take, > 0; 0 (default): no limit. No update or step begins that is not
                                         expected to end in time, with the final loss after it. */
    unicon_progress_fn progress;    /**< NULL (default): none. */
    void *progress_user;            /**< Passed to it. */
    int32_t batch_score;            /**< ::unicon_batch_score, default accuracy. */
    int32_t reserved;               /**< 0. */
    double cos_clamp;               /**< Kernel: cosines are clamped to +-(1 - this) where the kernel's own `cos_clamp` is smaller; >= 0,
                                         default 0. The presets of the paper set it to 1e-5. */
} unicon_fit_options_t;

/**
 * Sets every field to its default.
 * @param[out] options the struct.
 * @param struct_size `sizeof *options`.
 * @return as unicon_context_options_init().
 */
UNICON_API unicon_status_t unicon_fit_options_init(unicon_fit_options_t *options, size_t struct_size);

/**
 * Sets the fields that a schedule is about, and leaves what it is not about (seed, progress, budget) alone. Where they are not set yet, it
 * also sets `r` (0), `loss` (NULL) and `kernel` (NULL), to structs inside the library that live as long as the process; so what one preset
 * has set another leaves alone: begin with unicon_fit_options_init().
 * @param options initialised before.
 * @param preset ::unicon_preset.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_fit_options_preset(unicon_fit_options_t *options, int32_t preset);

/** How a fit ended. */
enum unicon_outcome {
    UNICON_OUTCOME_COMPLETED = 0, /**< All updates, or steps, were made. */
    UNICON_OUTCOME_CONVERGED = 1, /**< `tol` was met, or nothing was left to gain. */
    UNICON_OUTCOME_CANCELLED = 2, /**< The call returned ::UNICON_ERROR_CANCELLED; no model was made. */
    UNICON_OUTCOME_OUT_OF_TIME = 3 /**< Steps were left, but `budget` had no room for another and what comes after it. */
};

/** What a fit did, or an evaluation found: values by their key. Immutable; needs no context. */
typedef struct unicon_report unicon_report_t;

/** The values of a report: reals below 1000, integers from 1000 on, series from 2000 on. */
enum unicon_report_key {
    /* Reals of a fit. */
    UNICON_REPORT_FINAL_LOSS = 1,         /**< Loss of the fitted encoders on all rows. Not there unless asked for, and where the budget was used up before. */
    UNICON_REPORT_SAMPLING_ERROR = 2,     /**< |C - C_exact| / |C_exact| of the last update with sampled negatives, estimated from two half samples. Not there without one. */
    UNICON_REPORT_WHITEN = 3,             /**< Shrinkage of the whitening, chosen or asked for. Not there where there is none. */
    UNICON_REPORT_POWER = 4,              /**< Power of the singular values in each encoder, chosen or asked for. */
    UNICON_REPORT_TAU = 5,                /**< Temperature, chosen or asked for. */
    UNICON_REPORT_SECONDS = 6,            /**< The whole call. */
    UNICON_REPORT_SECONDS_LOAD = 7,       /**< Reading and checking features. */
    UNICON_REPORT_SECONDS_FEATURES = 8,   /**< Feature maps and whitening. */
    UNICON_REPORT_SECONDS_ENCODE = 9,     /**< Embeddings. */
    UNICON_REPORT_SECONDS_STATISTICS = 10, /**< First pass over the similarities. */
    UNICON_REPORT_SECONDS_WEIGHTS = 11,   /**< Second pass. */
    UNICON_REPORT_SECONDS_SPECTRAL = 12,  /**< Decompositions. */
    UNICON_REPORT_SECONDS_VALIDATION = 13, /**< Validation scores. */
    /* Reals of an evaluation. "x2y" is of the rows of x as queries, "y2x" of those of y. */
    UNICON_REPORT_MATCHING_ACCURACY = 101, /**< Share of rows of x whose most similar row of y is a match. */
    UNICON_REPORT_MRR_X2Y = 102,          /**< Mean reciprocal rank of the best match; a query without a match adds 0. */
    UNICON_REPORT_MRR_Y2X = 103,          /**< The same of y. */
    UNICON_REPORT_MRR_X2Y_LOW = 104,      /**< Low end of its interval. Not there without resamples, as the three below. */
    UNICON_REPORT_MRR_X2Y_HIGH = 105,     /**< High end. */
    UNICON_REPORT_MRR_Y2X_LOW = 106,      /**< Low end. */
    UNICON_REPORT_MRR_Y2X_HIGH = 107,     /**< High end. */
    UNICON_REPORT_MEDIAN_RANK_X2Y = 108,  /**< Median rank, from 1, of the queries that have a match. Not there if none has. */
    UNICON_REPORT_MEDIAN_RANK_Y2X = 109,  /**< The same of y. */
    UNICON_REPORT_MEAN_RANK_X2Y = 110,    /**< Mean rank of the same queries. */
    UNICON_REPORT_MEAN_RANK_Y2X = 111,    /**< The same of y. */
    /* Integers of a fit. */
    UNICON_REPORT_OUTCOME = 1001,         /**< ::unicon_outcome. */
    UNICON_REPORT_N_ITERS = 1002,         /**< Spectral updates made, and steps of damping and refinement. */
    UNICON_REPORT_REJECTED_UPDATE = 1003, /**< Boolean: the last update was made and not kept, for it raised the loss (::UNICON_UPDATES_AUTO). */
    UNICON_REPORT_ROWS_WITHOUT_POSITIVES = 1004, /**< Rows of X that match nothing. */
    UNICON_REPORT_COLS_WITHOUT_POSITIVES = 1005, /**< Rows of Y that match nothing. */
    UNICON_REPORT_ZERO_ROWS_X = 1006,     /**< Rows of X that are all zero; they embed to 0. */
    UNICON_REPORT_ZERO_ROWS_Y = 1007,     /**< Rows of Y that are all zero. */
    UNICON_REPORT_ROWS_DROPPED = 1008,    /**< Rows that no batch used. */
    UNICON_REPORT_WORKSPACE_BYTES = 1009, /**< What unicon_fit_workspace() answers for this call. */
    UNICON_REPORT_PEAK_BYTES = 1010,      /**< The most bytes of sample-sized data (features, embeddings) that the context has held. Matrices as large as the square of a width, which pass, are not counted. */
    UNICON_REPORT_EVALUATIONS = 1011,     /**< Evaluations of loss and gradient by damping and refinement. */
    UNICON_REPORT_R = 1012,               /**< Dimension of the embeddings, chosen or asked for. */
    UNICON_REPORT_ROWS_HELD_BACK = 1013,  /**< Rows of X that unicon_fit_best() held back to choose on. */
    UNICON_REPORT_COLS_HELD_BACK = 1014,  /**< Rows of Y. */
    UNICON_REPORT_HELD_APART = 1015,      /**< What rows that were held back have in common with none that trained: 1 matches (a group, the captions of an image) + 2 copies of their x + 4 copies of their y; less than 7 only where these are too many. Not there where none were held back. */
    UNICON_REPORT_DISTINCT_X = 1016,      /**< Distinct rows of X. Not there where they were not compared (device memory). Rows that repeat are their own negatives unless groups make them one. */
    UNICON_REPORT_DISTINCT_Y = 1017,      /**< Distinct rows of Y. */
    UNICON_REPORT_CENTRED_X = 1018,       /**< Boolean: the mean of X was taken out. */
    UNICON_REPORT_CENTRED_Y = 1019,       /**< Boolean: that of Y. */
    UNICON_REPORT_RETURNED = 1020,        /**< The point of the trace series, from 0, whose encoders the model has. Not there where they are those that the history started from. */
    /* Integers of an evaluation. */
    UNICON_REPORT_TIED_X2Y = 1101,        /**< Queries whose best match is exactly as similar as an item that is none. */
    UNICON_REPORT_TIED_Y2X = 1102,        /**< The same of y. */
    /* Series of a fit. The trace is the history of damping and refinement, all its series equally long. */
    UNICON_REPORT_LOSS = 2001,            /**< The loss that every update started from (a mean over batches), followed by those of the trace. */
    UNICON_REPORT_CHANGE = 2002,          /**< |F1^T F2 - previous|_F of every update from the second on. */
    UNICON_REPORT_SINGULAR_VALUES = 2003, /**< Singular values of the last C (or average), falling. */
    UNICON_REPORT_TRACE_SECONDS = 2004,   /**< Since the call began. */
    UNICON_REPORT_TRACE_LOSS = 2005,      /**< The loss over the negatives that it saw: an estimate where these were sampled, and on mini-batches the mean over the batches since the point before, each taken before its step. */
    UNICON_REPORT_TRACE_SCORE = 2006,     /**< Mean reciprocal rank on the validation pairs, of both directions; NaN without them. */
    UNICON_REPORT_TRACE_NEGATIVES = 2007, /**< Negatives per row that the loss saw; 0: all. */
    UNICON_REPORT_TRACE_EVALUATIONS = 2008, /**< Evaluations of loss and gradient so far. */
    UNICON_REPORT_TRACE_SAMPLING_ERROR = 2009, /**< With sampled negatives, the relative error that they leave in the gradient, estimated from two half samples; NaN where it was not. */
    /* Series of an evaluation: a value for each of the ks. */
    UNICON_REPORT_RECALL_X2Y = 2101,      /**< Recall\@k: the share of queries with a match among their k nearest. */
    UNICON_REPORT_RECALL_Y2X = 2102,      /**< The same of y. */
    UNICON_REPORT_RECALL_X2Y_LOW = 2103,  /**< Low ends of its intervals. Not there without resamples, as the three below. */
    UNICON_REPORT_RECALL_X2Y_HIGH = 2104, /**< High ends. */
    UNICON_REPORT_RECALL_Y2X_LOW = 2105,  /**< Low ends. */
    UNICON_REPORT_RECALL_Y2X_HIGH = 2106  /**< High ends. */
};

/**
 * A real number of a report.
 * @param report not NULL.
 * @param key a real of ::unicon_report_key.
 * @param[out] value set to it.
 * @return ::UNICON_ERROR_NO_VALUE where this report has none (as the key says, and for keys of the other kind of report),
 *         ::UNICON_ERROR_INVALID_ARGUMENT for what is no key of a real. Text: per thread.
 */
UNICON_API unicon_status_t unicon_report_real(const unicon_report_t *report, int32_t key, double *value);

/**
 * An integer of a report.
 * @param report not NULL.
 * @param key an integer of ::unicon_report_key.
 * @param[out] value set to it.
 * @return as unicon_report_real().
 */
UNICON_API unicon_status_t unicon_report_integer(const unicon_report_t *report, int32_t key, int64_t *value);

/**
 * A series of a report.
 * @param report not NULL.
 * @param key a series of ::unicon_report_key.
 * @param[out] values receives the first `capacity` values at most. May be NULL if `capacity` is 0.
 * @param capacity values that there is room for, at least 0.
 * @param[out] count how many there are, also beyond the capacity. Not NULL.
 * @return as unicon_report_real(). A series of a fit that has no points is there, with a count of 0.
 */
UNICON_API unicon_status_t unicon_report_series(const unicon_report_t *report, int32_t key, double *values, int64_t capacity,
                                                int64_t *count);

/**
 * Destroys a report. NULL is accepted.
 * @param report the handle, or NULL.
 */
UNICON_API void unicon_report_destroy(unicon_report_t *report);

/**
 * Fits encoders in closed form: similarity, weights S, C = X^T S Y, top-r SVD, repeated.
 * @param context the context.
 * @param options not NULL.
 * @param pairs features, n_x by d1 and n_y by d2.
 * @param[out] model the new handle, for unicon_model_destroy().
 * @param[out] report the new handle, for unicon_report_destroy(). May be NULL. Made also where the call is cancelled once it has
 *        begun: then with the outcome, the seconds and the bytes alone.
 * @return any status. Synchronous.
 */
UNICON_API unicon_status_t unicon_fit(unicon_context_t *context, const unicon_fit_options_t *options,
                                      const unicon_pairs_t *pairs, unicon_model_t **model, unicon_report_t **report);

/** The sizes of a problem, for the workspace queries. */
typedef struct unicon_sizes {
    size_t struct_size; /**< Set by unicon_sizes_init(). */
    int64_t n_x;        /**< Rows of X, at least 1. No default. */
    int64_t n_y;        /**< Rows of Y, at least 1. No default. */
    int64_t d1;         /**< Columns of X, at least 1. No default. */
    int64_t d2;         /**< Columns of Y, at least 1. No default. */
    int64_t m_x;        /**< Rows of X of the validation pairs, default 0: none. */
    int64_t m_y;        /**< Rows of Y of the validation pairs, default 0. */
    int32_t dtype;      /**< ::unicon_dtype of the features, default ::UNICON_F32. */
    int32_t reserved;   /**< 0. */
} unicon_sizes_t;

/**
 * Sets every field to its default.
 * @param[out] sizes the struct.
 * @param struct_size `sizeof *sizes`.
 * @return as unicon_context_options_init().
 */
UNICON_API unicon_status_t unicon_sizes_init(unicon_sizes_t *sizes, size_t struct_size);

/**
 * Bytes of sample-sized matrices that unicon_fit() holds at most for a problem: a `workspace_limit` of so much suffices.
 * @param context the context that would compute.
 * @param options as for unicon_fit(); `validation` is not looked at, `sizes` has its rows.
 * @param sizes not NULL.
 * @param[out] bytes set to the number. Nothing is allocated.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_fit_workspace(unicon_context_t *context, const unicon_fit_options_t *options,
                                                const unicon_sizes_t *sizes, uint64_t *bytes);

/** How unicon_fit_best() finds the dimension of the embeddings. */
enum unicon_dimension {
    UNICON_DIMENSION_FIXED = 0,  /**< It is `r`. */
    UNICON_DIMENSION_ENERGY = 1, /**< The smallest whose squared singular values make up the share `energy` of all. */
    UNICON_DIMENSION_AUTO = 2    /**< The smallest power of two that scores within 0.005 of the best on the validation pairs. */
};

/** Everything unicon_fit_best() can be told. Fill with unicon_best_options_init() and set `r` (or `dimension`). */
typedef struct unicon_best_options {
    size_t struct_size;             /**< Set by unicon_best_options_init(). */
    int32_t dimension;              /**< ::unicon_dimension, default fixed. */
    int32_t tau_auto;               /**< Boolean, default 0: choose the temperature on the validation pairs. */
    int64_t r;                      /**< Dimension of the embeddings for ::UNICON_DIMENSION_FIXED, 1 to min(d1, d2). No default. Else 0. */
    double energy;                  /**< Share in (0, 1] for ::UNICON_DIMENSION_ENERGY, default 0.95; not used otherwise. */
    const unicon_loss_t *loss;      /**< NULL (default): clip with its defaults. */
    const unicon_kernel_t *kernel;  /**< Of both sides, with landmarks; NULL (default): linear encoders. */
    int64_t n_landmarks;            /**< Kernel: Nystrom reference points; 0 (default): 512, at most n. Without a kernel 0. */
    const int64_t *landmarks;       /**< Kernel: the `n_landmarks` rows to use; NULL (default): drawn with `seed`. Rows are counted among
                                         those that are not held back. */
    double kernel_ridge;            /**< Kernel: Tikhonov ridge on K, >= 0, default 1e-6. */
    const double *whiten;           /**< Candidate shrinkages, each >= 0; NULL (default): 10, 3, 1, 0.3, 0.1, 0.03, 0.01, 0.001. */
    int64_t n_whiten;               /**< Length of `whiten`; 0 for NULL. */
    const double *powers;           /**< Candidate powers of the singular values in each encoder, >= 0; NULL (default): 0, 1/2, 1, 2. */
    int64_t n_powers;               /**< Length of `powers`; 0 for NULL. */
    const unicon_refine_t *refine;  /**< NULL (default): the defaults of unicon_refine_init(); `max_steps` 0 for no refinement (nor mini-batches). Its
                                         `stages` must be NULL: `n_negatives` and `exact` make them. */
    const unicon_minibatch_t *minibatch; /**< NULL (default): the defaults of unicon_minibatch_init(). */
    int64_t n_negatives;            /**< 0 (default): mini-batches on large data (4,096 rows and more), whose negatives stand
                                         for all, and all negatives on small. Above 0: L-BFGS on so many sampled negatives
                                         per row, then on four times as many, follows the mini-batches. */
    int32_t exact;                  /**< Boolean, default 0: end in a stage with all negatives. */
    int32_t final_loss;             /**< Boolean, default 0: evaluate the exact loss of the encoders, one more pass over all pairs, which on
                                         large data takes longer than the fit. */
    const char *checkpoint;         /**< As in ::unicon_fit_options_t. */
    double budget;                  /**< As in ::unicon_fit_options_t. */
    uint64_t seed;                  /**< Of everything random, default 0. */
    unicon_progress_fn progress;    /**< NULL (default): none. */
    void *progress_user;            /**< Passed to it. */
    const double *widths;           /**< Candidate widths of the kernels rbf (gamma = 1/width^2) and matern32 (lengthscale = width), each > 0,
                                         in median distances between the rows of a side; 0.5, 1, 2, 4 are worth trying. NULL (default): the
                                         kernel's own parameter. */
    int64_t n_widths;               /**< Length of `widths`; 0 for NULL. */
    int32_t center;                 /**< As in ::unicon_fit_options_t. */
    int32_t reserved;               /**< 0. */
    const unicon_pairs_t *validation; /**< Pairs to choose on. NULL (default): a tenth of the rows (1,000 at most) is held back and does not
                                         train; with fewer than 20 rows everything is chosen on the rows that train. */
    const unicon_model_t *warm_start; /**< A linear model of dimension `r`: the refinement begins there if it scores better than the
                                         spectral solution. Not with a kernel. NULL (default): none. */
} unicon_best_options_t;

/**
 * Sets every field to its default.
 * @param[out] options the struct.
 * @param struct_size `sizeof *options`.
 * @return as unicon_context_options_init().
 */
UNICON_API unicon_status_t unicon_best_options_init(unicon_best_options_t *options, size_t struct_size);

/**
 * The fit that needs no tuning: whitening, one spectral update, and descent on the loss from there (on mini-batches where data is large,
 * else by L-BFGS), with shrinkage, power and (on request) dimension and temperature chosen on validation pairs.
 * @param context the context.
 * @param options not NULL.
 * @param pairs features, n_x by d1 and n_y by d2.
 * @param[out] model the new handle, for unicon_model_destroy().
 * @param[out] report as for unicon_fit().
 * @return any status. Synchronous.
 */
UNICON_API unicon_status_t unicon_fit_best(unicon_context_t *context, const unicon_best_options_t *options,
                                           const unicon_pairs_t *pairs, unicon_model_t **model, unicon_report_t **report);

/**
 * Bytes of sample-sized matrices that unicon_fit_best() holds at most for a problem, as unicon_fit_workspace() for unicon_fit().
 * @param context the context that would compute.
 * @param options as for unicon_fit_best(); `validation` is not looked at, `sizes` has its rows.
 * @param sizes not NULL.
 * @param[out] bytes set to the number. Nothing is allocated.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_fit_best_workspace(unicon_context_t *context, const unicon_best_options_t *options,
                                                     const unicon_sizes_t *sizes, uint64_t *bytes);

/** A fit whose batches arrive one by one. */
typedef struct unicon_partial_fit unicon_partial_fit_t;

/** What a stream of batches is summed up in. */
enum unicon_accumulate {
    /** The Gram matrices of both sides and C, each summed over the batches: one solution of all of them, also with
     *  whitening. Memory O(d^2). The better default. */
    UNICON_ACCUMULATE_MOMENTS = 0,
    /** A solution per batch, averaged as F1^T F2, weighted by the score on the validation pairs: the batched mode of the paper. */
    UNICON_ACCUMULATE_SOLUTIONS = 1
};

/**
 * Begins a fit on batches that are streamed: linear encoders; never more than one batch in memory.
 *
 * Every batch is one update from the encoders that the pass began with (its similarities, S and C are its own), and every pass
 * over the data, ended by unicon_partial_fit_finish(), is one iteration.
 * @param options as for unicon_fit(), without what needs all the data (`kernel`, `batch_size`, `similarity`, `damping`, `refine`,
 *        `checkpoint`, `budget`; `whiten` with ::UNICON_ACCUMULATE_SOLUTIONS) and `progress`. `n_iters`, `tol` and `final_loss` are not used.
 *        `validation`: pairs that weigh the solutions (::UNICON_ACCUMULATE_SOLUTIONS only). Copied.
 * @param context the context; the handle computes on it from now on.
 * @param accumulate ::unicon_accumulate.
 * @param d1 columns of X.
 * @param d2 columns of Y.
 * @param dtype of the features: ::UNICON_F64 computes in float64, the others in float32.
 * @param[out] partial the new handle, for unicon_partial_fit_destroy().
 * @return any status.
 */
UNICON_API unicon_status_t unicon_partial_fit_create(unicon_context_t *context, const unicon_fit_options_t *options,
                                                     int32_t accumulate, int64_t d1, int64_t d2, int32_t dtype,
                                                     unicon_partial_fit_t **partial);

/**
 * Adds one batch. A batch that fails changes nothing.
 * @param partial the stream.
 * @param pairs features, b_x by d1 and b_y by d2.
 * @param[out] loss the loss of the batch before its update. May be NULL.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_partial_fit_add(unicon_partial_fit_t *partial, const unicon_pairs_t *pairs, double *loss);

/**
 * The model of the batches of this pass so far; more may follow.
 * @param partial the stream.
 * @param[out] model the new handle, for unicon_model_destroy().
 * @return ::UNICON_ERROR_INVALID_ARGUMENT if nothing was added since the last pass.
 */
UNICON_API unicon_status_t unicon_partial_fit_model(unicon_partial_fit_t *partial, unicon_model_t **model);

/**
 * Ends a pass: its model, from which the next pass begins.
 * @param partial the stream.
 * @param[out] model the new handle, for unicon_model_destroy().
 * @return ::UNICON_ERROR_INVALID_ARGUMENT if nothing was added since the last pass.
 */
UNICON_API unicon_status_t unicon_partial_fit_finish(unicon_partial_fit_t *partial, unicon_model_t **model);

/**
 * Destroys the stream. NULL is accepted.
 * @param partial the handle, or NULL.
 */
UNICON_API void unicon_partial_fit_destroy(unicon_partial_fit_t *partial);

/** @} */
/** @name Retrieval and kernels */
/** @{ */

/**
 * The k items nearest to every query by inner product, falling; ties go to the lower index.
 * @param context the context.
 * @param queries n_q by r; n_q may be 0.
 * @param items n_i by r, both unit rows for cosines.
 * @param k at least 1. With fewer items than k the rest is index -1 and score -infinity.
 * @param[out] scores n_q by k, float32 or float64. May be NULL.
 * @param[out] indices n_q * k values in host memory, query by query. Not NULL.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_search(unicon_context_t *context, const unicon_matrix_t *queries,
                                         const unicon_matrix_t *items, int64_t k, const unicon_matrix_t *scores,
                                         int64_t *indices);

/** What items that are exactly as similar as a query's best match do to its rank. */
enum unicon_ties {
    UNICON_TIES_EXPECTED = 0,    /**< The mean over all their orders: items that are all equal give chance. */
    UNICON_TIES_LOWER_INDEX = 1, /**< The lower index stands first, as in a search. */
    UNICON_TIES_OPTIMISTIC = 2,  /**< The match stands first: for data whose duplicates are all right answers. */
    UNICON_TIES_PESSIMISTIC = 3  /**< The match stands last. */
};

/**
 * Recall\@k in both directions: the fraction of queries with a true match among their k nearest. unicon_evaluate() finds more.
 * @param context the context.
 * @param pairs embeddings, n_x by r and n_y by r, both unit rows for cosines, and the true matches. A query without one is a miss.
 * @param ties ::unicon_ties.
 * @param ks `n_ks` values, each at least 1.
 * @param n_ks at least 1.
 * @param[out] recall 2 * n_ks values in host memory: x to y for every k, then y to x.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_recall(unicon_context_t *context, const unicon_pairs_t *pairs, int32_t ties,
                                         const int64_t *ks, int64_t n_ks, double *recall);

/** How retrieval is judged. */
typedef struct unicon_evaluation_options {
    size_t struct_size;   /**< Set by unicon_evaluation_options_init(). */
    const int64_t *ks;    /**< The k of Recall\@k, each at least 1; NULL (default): 1, 5, 10. */
    int64_t n_ks;         /**< Length of `ks`; 0 for NULL. */
    int32_t ties;         /**< ::unicon_ties, default ::UNICON_TIES_EXPECTED. */
    int32_t exclude_self; /**< 1: row i never finds row i, for a set against itself (n_x = n_y). Default 0. */
    int64_t resamples;    /**< Bootstrap resamples of the queries for intervals, at least 40, default 1000; 0: none. */
    double level;         /**< Probability that an interval covers, in (0, 1), default 0.95. */
    uint64_t seed;        /**< Of the resamples. One draw serves all figures, so differences are paired by query. */
} unicon_evaluation_options_t;

/**
 * Sets every field to its default.
 * @param[out] options the struct.
 * @param struct_size `sizeof *options`.
 * @return as unicon_context_options_init().
 */
UNICON_API unicon_status_t unicon_evaluation_options_init(unicon_evaluation_options_t *options, size_t struct_size);

/**
 * Recall\@k, ranks and their intervals in both directions.
 * @param context the context.
 * @param options NULL for the defaults.
 * @param pairs as for unicon_recall().
 * @param[out] report the new handle, for unicon_report_destroy().
 * @return any status.
 */
UNICON_API unicon_status_t unicon_evaluate(unicon_context_t *context, const unicon_evaluation_options_t *options,
                                           const unicon_pairs_t *pairs, unicon_report_t **report);

/** unicon_items_search(): no query is one of the items. */
#define UNICON_OWN_NONE (-1)

/** Items that stay on a device: checked and copied once, searched many times. */
typedef struct unicon_items unicon_items_t;

/**
 * Takes items.
 * @param context the context.
 * @param items n_i by r, unit rows for cosines. Copied; float64 items are searched in float64 on the CPU.
 * @param[out] resident the new handle, for unicon_items_destroy().
 * @return any status. Synchronous.
 */
UNICON_API unicon_status_t unicon_items_create(unicon_context_t *context, const unicon_matrix_t *items,
                                               unicon_items_t **resident);

/**
 * Destroys the items. NULL is accepted.
 * @param resident the handle, or NULL.
 */
UNICON_API void unicon_items_destroy(unicon_items_t *resident);

/**
 * As unicon_search(), in resident items: a few queries cost one pass over the items' memory.
 * @param context any CPU context for items of one, so that several threads may search with a context each; on CUDA the
 * context that took the items.
 * @param queries n_q by r; n_q may be 0.
 * @param k at least 1. With fewer items than k the rest is index -1 and score -infinity.
 * @param own ::UNICON_OWN_NONE; or the item that query 0 is, where query i is item own + i: it is not among that query's results.
 * @param[out] scores n_q by k, float32 or float64. May be NULL.
 * @param[out] indices n_q * k values in host memory, query by query. Not NULL.
 * @param resident the items.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_items_search(unicon_context_t *context, const unicon_items_t *resident,
                                               const unicon_matrix_t *queries, int64_t k, int64_t own,
                                               const unicon_matrix_t *scores, int64_t *indices);

/**
 * The Gram matrix k(a_i, b_j).
 * @param context the context.
 * @param kernel not NULL.
 * @param a n by d; n may be 0.
 * @param b m by d; m may not be 0.
 * @param[out] out n by m, float32 or float64.
 * @return any status.
 */
UNICON_API unicon_status_t unicon_gram(unicon_context_t *context, const unicon_kernel_t *kernel,
                                       const unicon_matrix_t *a, const unicon_matrix_t *b, const unicon_matrix_t *out);

/** @} */

#ifdef __cplusplus
}
#endif

#endif /* UNICON_H */

/* Outside the guard: it appears wherever <dlpack/dlpack.h> has been included before unicon.h. */
#if defined(DLPACK_DLPACK_H_) && !defined(UNICON_DLPACK_H)
#define UNICON_DLPACK_H /**< unicon_matrix_from_dlpack() is there. */

/**
 * A view of a DLPack tensor of one or two dimensions; a vector is one row. Nothing is copied and nothing is
 * owned: the tensor must outlive the view. Compiled only where DLPack's header is present.
 * @param tensor the tensor, for instance `&managed->dl_tensor`.
 * @param[out] matrix filled in.
 * @return ::UNICON_ERROR_UNSUPPORTED for another number of dimensions, dtype or device. The layout itself is checked by
 *         the function that the matrix is given to.
 */
static inline unicon_status_t unicon_matrix_from_dlpack(const DLTensor *tensor, unicon_matrix_t *matrix)
{
    int32_t dtype, columns;
    if (!tensor || !matrix)
        return UNICON_ERROR_INVALID_ARGUMENT;
    if (tensor->ndim < 1 || tensor->ndim > 2 || tensor->dtype.lanes != 1)
        return UNICON_ERROR_UNSUPPORTED;
    if (tensor->dtype.code == (uint8_t)kDLFloat && tensor->dtype.bits == 32)
        dtype = UNICON_F32;
    else if (tensor->dtype.code == (uint8_t)kDLFloat && tensor->dtype.bits == 64)
        dtype = UNICON_F64;
    else if (tensor->dtype.code == (uint8_t)kDLFloat && tensor->dtype.bits == 16)
        dtype = UNICON_F16;
    else if (tensor->dtype.code == (uint8_t)kDLBfloat && tensor->dtype.bits == 16)
        dtype = UNICON_BF16;
    else
        return UNICON_ERROR_UNSUPPORTED;
    if (tensor->device.device_type != kDLCPU && tensor->device.device_type != kDLCUDA
        && tensor->device.device_type != kDLCUDAHost && tensor->device.device_type != kDLCUDAManaged)
        return UNICON_ERROR_UNSUPPORTED;
    columns = tensor->ndim - 1;
    matrix->data = (char *)tensor->data + tensor->byte_offset;
    matrix->rows = tensor->ndim == 2 ? tensor->shape[0] : 1;
    matrix->cols = tensor->shape[columns];
    matrix->col_stride = tensor->strides ? tensor->strides[columns] : 1;
    matrix->row_stride = tensor->ndim == 2 && tensor->strides ? tensor->strides[0] : matrix->cols;
    matrix->dtype = dtype;
    matrix->device_type = (int32_t)tensor->device.device_type;
    matrix->device_id = tensor->device.device_id;
    matrix->reserved = 0;
    return UNICON_OK;
}

#endif /* DLPack */
