# The C ABI of libunicon: the structs and functions of unicon.h, nothing else. Field order and types are the header's;
# the test suite of the library compares every struct and every call in this file with it.

const ABI_VERSION = 1

const library = Ref{Ptr{Cvoid}}(C_NULL)
symbol(name::Symbol) = Libdl.dlsym(library[], name)

struct Matrix_t
    data::Ptr{Cvoid}
    rows::Int64
    cols::Int64
    row_stride::Int64
    col_stride::Int64
    dtype::Int32
    device_type::Int32
    device_id::Int32
    reserved::Int32
end

mutable struct ContextOptions_t
    struct_size::Csize_t
    device_type::Int32
    device_id::Int32
    stream::Ptr{Cvoid}
    n_threads::Int32
    precision::Int32
    workspace_limit::UInt64
    allocator::Ptr{Cvoid}
    communicator::Ptr{Cvoid}
    devices::Ptr{Int32}
    n_devices::Int64
    warning::Ptr{Cvoid}
    warning_user::Ptr{Cvoid}
    ContextOptions_t() = new()
end

mutable struct Family_t
    struct_size::Csize_t
    name::Cstring
    psi::Ptr{Cvoid}
    phi::Ptr{Cvoid}
    user::Ptr{Cvoid}
    concurrent::Int32
    reserved::Int32
    Family_t() = new()
end

mutable struct Loss_t
    struct_size::Csize_t
    kind::Int32
    eps_by::Int32
    tau::Float64
    nu::Float64
    margin::Float64
    eps_pos::Float64
    eps_neg::Float64
    log_eps::Float64
    family::Ptr{Family_t}
    Loss_t() = new()
end

mutable struct Positives_t
    struct_size::Csize_t
    kind::Int32
    reserved::Int32
    x_groups::Ptr{Int64}
    y_groups::Ptr{Int64}
    indptr::Ptr{Int64}
    indices::Ptr{Int64}
    nnz::Int64
    Positives_t() = new()
end

mutable struct Pairs_t
    struct_size::Csize_t
    x::Ptr{Matrix_t}
    y::Ptr{Matrix_t}
    positives::Ptr{Positives_t}
    Pairs_t() = new()
end

mutable struct WeightsOptions_t
    struct_size::Csize_t
    loss::Ptr{Loss_t}
    n_negatives::Int64
    seed::UInt64
    WeightsOptions_t() = new()
end

mutable struct Kernel_t
    struct_size::Csize_t
    kind::Int32
    reserved::Int32
    beta::Float64
    gamma::Float64
    lengthscale::Float64
    cos_clamp::Float64
    Kernel_t() = new()
end

mutable struct ModelDescription_t
    struct_size::Csize_t
    d1::Int64
    d2::Int64
    r::Int64
    kernel_x::Int32
    kernel_y::Int32
    members::Int64
    ModelDescription_t() = new(sizeof(ModelDescription_t), 0, 0, 0, 0, 0, 0)
end

struct Progress_t
    struct_size::Csize_t
    phase::Int32
    reserved::Int32
    done::Int64
    total::Int64
    loss::Float64
    seconds::Float64
end

mutable struct Damping_t
    struct_size::Csize_t
    first::Float64
    halvings::Int64
    tol::Float64
    Damping_t() = new()
end

mutable struct Refine_t
    struct_size::Csize_t
    max_steps::Int64
    tol::Float64
    memory::Int64
    patience::Int64
    first_step::Float64
    stages::Ptr{Int64}
    n_stages::Int64
    Refine_t() = new()
end

mutable struct Minibatch_t
    struct_size::Csize_t
    batch::Int64
    epochs::Int64
    min_steps::Int64
    max_steps::Int64
    rate::Float64
    momentum::Float64
    patience::Int64
    Minibatch_t() = new()
end

mutable struct BestOptions_t
    struct_size::Csize_t
    dimension::Int32
    tau_auto::Int32
    r::Int64
    energy::Float64
    loss::Ptr{Loss_t}
    kernel::Ptr{Kernel_t}
    n_landmarks::Int64
    landmarks::Ptr{Int64}
    kernel_ridge::Float64
    whiten::Ptr{Float64}
    n_whiten::Int64
    powers::Ptr{Float64}
    n_powers::Int64
    refine::Ptr{Refine_t}
    minibatch::Ptr{Minibatch_t}
    n_negatives::Int64
    exact::Int32
    final_loss::Int32
    checkpoint::Ptr{UInt8}
    budget::Float64
    seed::UInt64
    progress::Ptr{Cvoid}
    progress_user::Ptr{Cvoid}
    widths::Ptr{Float64}
    n_widths::Int64
    center::Int32
    reserved::Int32
    validation::Ptr{Pairs_t}
    warm_start::Ptr{Cvoid}
    BestOptions_t() = new()
end

mutable struct FitOptions_t
    struct_size::Csize_t
    r::Int64
    loss::Ptr{Loss_t}
    kernel::Ptr{Kernel_t}
    n_landmarks::Int64
    landmarks::Ptr{Int64}
    kernel_ridge::Float64
    n_iters::Int64
    tol::Float64
    rho::Float64
    ridge::Float64
    factorization::Int32
    svd::Int32
    init::Int32
    scale_inputs::Int32
    final_loss::Int32
    drop_trailing::Int32
    power::Float64
    similarity::Ptr{Matrix_t}
    whiten::Float64
    batch_size::Int64
    n_batches::Int64
    n_negatives::Int64
    seed::UInt64
    growth::Float64
    exact_last::Int32
    center::Int32
    validation::Ptr{Pairs_t}
    warm_start::Ptr{Cvoid}
    damping::Ptr{Damping_t}
    refine::Ptr{Refine_t}
    checkpoint::Ptr{UInt8}
    budget::Float64
    progress::Ptr{Cvoid}
    progress_user::Ptr{Cvoid}
    batch_score::Int32
    reserved::Int32
    cos_clamp::Float64
    FitOptions_t() = new()
end

mutable struct EvaluationOptions_t
    struct_size::Csize_t
    ks::Ptr{Int64}
    n_ks::Int64
    ties::Int32
    exclude_self::Int32
    resamples::Int64
    level::Float64
    seed::UInt64
    EvaluationOptions_t() = new()
end

# The keys of reports, UNICON_REPORT_...: reals below 1000, integers from 1000 on, series from 2000 on.
const REPORT_KEYS = (
    final_loss = 1, sampling_error = 2, whiten = 3, power = 4, tau = 5, seconds = 6, seconds_load = 7, seconds_features = 8,
    seconds_encode = 9, seconds_statistics = 10, seconds_weights = 11, seconds_spectral = 12, seconds_validation = 13,
    matching_accuracy = 101, mrr_x2y = 102, mrr_y2x = 103, mrr_x2y_low = 104, mrr_x2y_high = 105, mrr_y2x_low = 106, mrr_y2x_high = 107,
    median_rank_x2y = 108, median_rank_y2x = 109, mean_rank_x2y = 110, mean_rank_y2x = 111, outcome = 1001, n_iters = 1002,
    rejected_update = 1003, rows_without_positives = 1004, cols_without_positives = 1005, zero_rows_x = 1006, zero_rows_y = 1007,
    rows_dropped = 1008, workspace_bytes = 1009, peak_bytes = 1010, evaluations = 1011, r = 1012, rows_held_back = 1013,
    cols_held_back = 1014, held_apart = 1015, distinct_x = 1016, distinct_y = 1017, centred_x = 1018, centred_y = 1019, returned = 1020,
    tied_x2y = 1101, tied_y2x = 1102, loss = 2001, change = 2002, singular_values = 2003, trace_seconds = 2004, trace_loss = 2005,
    trace_score = 2006, trace_negatives = 2007, trace_evaluations = 2008, trace_sampling_error = 2009, recall_x2y = 2101,
    recall_y2x = 2102, recall_x2y_low = 2103, recall_x2y_high = 2104, recall_y2x_low = 2105, recall_y2x_high = 2106,
)

c_status_string(status) = @ccall $(symbol(:unicon_status_string))(status::Int32)::Cstring
c_version() = @ccall $(symbol(:unicon_version))()::Cstring
c_abi_version() = @ccall $(symbol(:unicon_abi_version))()::Int32
c_device_count(type, count) = @ccall $(symbol(:unicon_device_count))(type::Int32, count::Ref{Int32})::Int32
c_context_options_init(o) = @ccall $(symbol(:unicon_context_options_init))(o::Ref{ContextOptions_t}, sizeof(ContextOptions_t)::Csize_t)::Int32
c_context_create(o, out) = @ccall $(symbol(:unicon_context_create))(o::Ref{ContextOptions_t}, out::Ref{Ptr{Cvoid}})::Int32
c_context_destroy(h) = @ccall $(symbol(:unicon_context_destroy))(h::Ptr{Cvoid})::Cvoid
c_last_error(h, buffer, capacity) = @ccall $(symbol(:unicon_last_error))(h::Ptr{Cvoid}, buffer::Ptr{UInt8}, capacity::Csize_t)::Csize_t
c_cancel(h) = @ccall $(symbol(:unicon_cancel))(h::Ptr{Cvoid})::Int32
c_cancel_clear(h) = @ccall $(symbol(:unicon_cancel_clear))(h::Ptr{Cvoid})::Int32
c_family_init(o) = @ccall $(symbol(:unicon_family_init))(o::Ref{Family_t}, sizeof(Family_t)::Csize_t)::Int32
c_loss_init(o, kind) = @ccall $(symbol(:unicon_loss_init))(o::Ref{Loss_t}, sizeof(Loss_t)::Csize_t, kind::Int32)::Int32
c_positives_init(o) = @ccall $(symbol(:unicon_positives_init))(o::Ref{Positives_t}, sizeof(Positives_t)::Csize_t)::Int32
c_kernel_init(o, kind) = @ccall $(symbol(:unicon_kernel_init))(o::Ref{Kernel_t}, sizeof(Kernel_t)::Csize_t, kind::Int32)::Int32
c_weights_options_init(o) = @ccall $(symbol(:unicon_weights_options_init))(o::Ref{WeightsOptions_t}, sizeof(WeightsOptions_t)::Csize_t)::Int32
c_weights_create(h, o, pairs, out) = @ccall $(symbol(:unicon_weights_create))(h::Ptr{Cvoid}, o::Ref{WeightsOptions_t}, pairs::Ref{Pairs_t}, out::Ref{Ptr{Cvoid}})::Int32
c_weights_create_similarity(h, o, s, p, out) = @ccall $(symbol(:unicon_weights_create_similarity))(h::Ptr{Cvoid}, o::Ref{WeightsOptions_t}, s::Ref{Matrix_t}, p::Ref{Positives_t}, out::Ref{Ptr{Cvoid}})::Int32
c_weights_destroy(w) = @ccall $(symbol(:unicon_weights_destroy))(w::Ptr{Cvoid})::Cvoid
c_weights_loss(w, value, rows, cols) = @ccall $(symbol(:unicon_weights_loss))(w::Ptr{Cvoid}, value::Ref{Float64}, rows::Ref{Float64}, cols::Ref{Float64})::Int32
c_weights_unmatched(w, rows, cols) = @ccall $(symbol(:unicon_weights_unmatched))(w::Ptr{Cvoid}, rows::Ref{Int64}, cols::Ref{Int64})::Int32
c_weights_dense(w, s) = @ccall $(symbol(:unicon_weights_dense))(w::Ptr{Cvoid}, s::Ref{Matrix_t})::Int32
c_weights_apply(w, v, out) = @ccall $(symbol(:unicon_weights_apply))(w::Ptr{Cvoid}, v::Ref{Matrix_t}, out::Ref{Matrix_t})::Int32
c_weights_apply_transpose(w, u, out) = @ccall $(symbol(:unicon_weights_apply_transpose))(w::Ptr{Cvoid}, u::Ref{Matrix_t}, out::Ref{Matrix_t})::Int32
c_weights_cross(w, x, y, out) = @ccall $(symbol(:unicon_weights_cross))(w::Ptr{Cvoid}, x::Ref{Matrix_t}, y::Ref{Matrix_t}, out::Ref{Matrix_t})::Int32
c_contrastive_grad(h, o, pairs, value, dzx, dzy) = @ccall $(symbol(:unicon_contrastive_grad))(h::Ptr{Cvoid}, o::Ref{WeightsOptions_t}, pairs::Ref{Pairs_t}, value::Ref{Float64}, dzx::Ref{Matrix_t}, dzy::Ref{Matrix_t})::Int32
c_model_create_linear(h, f1, f2, out) = @ccall $(symbol(:unicon_model_create_linear))(h::Ptr{Cvoid}, f1::Ref{Matrix_t}, f2::Ref{Matrix_t}, out::Ref{Ptr{Cvoid}})::Int32
c_model_destroy(m) = @ccall $(symbol(:unicon_model_destroy))(m::Ptr{Cvoid})::Cvoid
c_model_describe(m, out) = @ccall $(symbol(:unicon_model_describe))(m::Ptr{Cvoid}, out::Ref{ModelDescription_t})::Int32
c_model_bias(h, m, side, out) = @ccall $(symbol(:unicon_model_bias))(h::Ptr{Cvoid}, m::Ptr{Cvoid}, side::Int32, out::Ref{Matrix_t})::Int32
c_model_encoder(h, m, side, out) = @ccall $(symbol(:unicon_model_encoder))(h::Ptr{Cvoid}, m::Ptr{Cvoid}, side::Int32, out::Ref{Matrix_t})::Int32
c_model_encode(h, m, side, x, out) = @ccall $(symbol(:unicon_model_encode))(h::Ptr{Cvoid}, m::Ptr{Cvoid}, side::Int32, x::Ref{Matrix_t}, out::Ref{Matrix_t})::Int32
c_model_compress(h, m, x, y, r, error, out) = @ccall $(symbol(:unicon_model_compress))(h::Ptr{Cvoid}, m::Ptr{Cvoid}, x::Ref{Matrix_t}, y::Ref{Matrix_t}, r::Int64, error::Ref{Float64}, out::Ref{Ptr{Cvoid}})::Int32
c_model_similarity(h, m, x, y, out) = @ccall $(symbol(:unicon_model_similarity))(h::Ptr{Cvoid}, m::Ptr{Cvoid}, x::Ref{Matrix_t}, y::Ref{Matrix_t}, out::Ref{Matrix_t})::Int32
c_model_save(h, m, path) = @ccall $(symbol(:unicon_model_save))(h::Ptr{Cvoid}, m::Ptr{Cvoid}, path::Cstring)::Int32
c_model_load(h, path, out) = @ccall $(symbol(:unicon_model_load))(h::Ptr{Cvoid}, path::Cstring, out::Ref{Ptr{Cvoid}})::Int32
c_model_to_bytes(m, buffer, capacity, size) = @ccall $(symbol(:unicon_model_to_bytes))(m::Ptr{Cvoid}, buffer::Ptr{UInt8}, capacity::Int64, size::Ref{Int64})::Int32
c_model_from_bytes(data, size, out) = @ccall $(symbol(:unicon_model_from_bytes))(data::Ptr{UInt8}, size::Int64, out::Ref{Ptr{Cvoid}})::Int32
c_damping_init(o) = @ccall $(symbol(:unicon_damping_init))(o::Ref{Damping_t}, sizeof(Damping_t)::Csize_t)::Int32
c_refine_init(o) = @ccall $(symbol(:unicon_refine_init))(o::Ref{Refine_t}, sizeof(Refine_t)::Csize_t)::Int32
c_minibatch_init(o) = @ccall $(symbol(:unicon_minibatch_init))(o::Ref{Minibatch_t}, sizeof(Minibatch_t)::Csize_t)::Int32
c_best_options_init(o) = @ccall $(symbol(:unicon_best_options_init))(o::Ref{BestOptions_t}, sizeof(BestOptions_t)::Csize_t)::Int32
c_fit_options_init(o) = @ccall $(symbol(:unicon_fit_options_init))(o::Ref{FitOptions_t}, sizeof(FitOptions_t)::Csize_t)::Int32
c_fit_options_preset(o, preset) = @ccall $(symbol(:unicon_fit_options_preset))(o::Ref{FitOptions_t}, preset::Int32)::Int32
c_fit(h, o, pairs, out, report) = @ccall $(symbol(:unicon_fit))(h::Ptr{Cvoid}, o::Ref{FitOptions_t}, pairs::Ref{Pairs_t}, out::Ref{Ptr{Cvoid}}, report::Ref{Ptr{Cvoid}})::Int32
c_fit_best(h, o, pairs, out, report) = @ccall $(symbol(:unicon_fit_best))(h::Ptr{Cvoid}, o::Ref{BestOptions_t}, pairs::Ref{Pairs_t}, out::Ref{Ptr{Cvoid}}, report::Ref{Ptr{Cvoid}})::Int32
c_report_real(r, key, value) = @ccall $(symbol(:unicon_report_real))(r::Ptr{Cvoid}, key::Int32, value::Ref{Float64})::Int32
c_report_integer(r, key, value) = @ccall $(symbol(:unicon_report_integer))(r::Ptr{Cvoid}, key::Int32, value::Ref{Int64})::Int32
c_report_series(r, key, values, capacity, count) = @ccall $(symbol(:unicon_report_series))(r::Ptr{Cvoid}, key::Int32, values::Ptr{Float64}, capacity::Int64, count::Ref{Int64})::Int32
c_report_destroy(r) = @ccall $(symbol(:unicon_report_destroy))(r::Ptr{Cvoid})::Cvoid
c_partial_fit_create(h, o, accumulate, d1, d2, dtype, out) = @ccall $(symbol(:unicon_partial_fit_create))(h::Ptr{Cvoid}, o::Ref{FitOptions_t}, accumulate::Int32, d1::Int64, d2::Int64, dtype::Int32, out::Ref{Ptr{Cvoid}})::Int32
c_partial_fit_add(f, pairs, loss) = @ccall $(symbol(:unicon_partial_fit_add))(f::Ptr{Cvoid}, pairs::Ref{Pairs_t}, loss::Ref{Float64})::Int32
c_partial_fit_model(f, out) = @ccall $(symbol(:unicon_partial_fit_model))(f::Ptr{Cvoid}, out::Ref{Ptr{Cvoid}})::Int32
c_partial_fit_finish(f, out) = @ccall $(symbol(:unicon_partial_fit_finish))(f::Ptr{Cvoid}, out::Ref{Ptr{Cvoid}})::Int32
c_partial_fit_destroy(f) = @ccall $(symbol(:unicon_partial_fit_destroy))(f::Ptr{Cvoid})::Cvoid
c_search(h, queries, items, k, scores, indices) = @ccall $(symbol(:unicon_search))(h::Ptr{Cvoid}, queries::Ref{Matrix_t}, items::Ref{Matrix_t}, k::Int64, scores::Ref{Matrix_t}, indices::Ptr{Int64})::Int32
c_recall(h, pairs, ties, ks, n, out) = @ccall $(symbol(:unicon_recall))(h::Ptr{Cvoid}, pairs::Ref{Pairs_t}, ties::Int32, ks::Ptr{Int64}, n::Int64, out::Ptr{Float64})::Int32
c_evaluation_options_init(o) = @ccall $(symbol(:unicon_evaluation_options_init))(o::Ref{EvaluationOptions_t}, sizeof(EvaluationOptions_t)::Csize_t)::Int32
c_evaluate(h, o, pairs, report) = @ccall $(symbol(:unicon_evaluate))(h::Ptr{Cvoid}, o::Ref{EvaluationOptions_t}, pairs::Ref{Pairs_t}, report::Ref{Ptr{Cvoid}})::Int32
c_items_create(h, items, out) = @ccall $(symbol(:unicon_items_create))(h::Ptr{Cvoid}, items::Ref{Matrix_t}, out::Ref{Ptr{Cvoid}})::Int32
c_items_destroy(i) = @ccall $(symbol(:unicon_items_destroy))(i::Ptr{Cvoid})::Cvoid
c_items_search(h, i, queries, k, own, scores, indices) = @ccall $(symbol(:unicon_items_search))(h::Ptr{Cvoid}, i::Ptr{Cvoid}, queries::Ref{Matrix_t}, k::Int64, own::Int64, scores::Ref{Matrix_t}, indices::Ptr{Int64})::Int32
c_gram(h, kernel, a, b, out) = @ccall $(symbol(:unicon_gram))(h::Ptr{Cvoid}, kernel::Ref{Kernel_t}, a::Ref{Matrix_t}, b::Ref{Matrix_t}, out::Ref{Matrix_t})::Int32
