// The CUDA implementations of torch.ops.docmill: checks, outputs, launch. The schemas are in the Python file of each
// op, which works without this binary; only the kernels for CUDA tensors are registered here.
//
// Through libtorch's stable ABI only, so one binary serves PyTorch 2.11 and later.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <string_view>
#include <tuple>

#include "checks.h"

// Weak, because PyTorch's CPU build lacks it: there the binary loads all the same, and its checks can be tested.
#pragma weak aoti_torch_get_current_cuda_stream

namespace docmill {
namespace {

using torch::stable::new_empty;

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

template <typename Args>
void launch_on(const Tensor& tensor, const Args& args, const char* op) {
  const torch::stable::accelerator::DeviceGuard guard(tensor.get_device_index());
  const cudaError_t error = launch(args, current_stream(tensor));
  require(error == cudaSuccess, op, ": launch failed: ", cudaGetErrorString(error));
}

std::tuple<Tensor, Tensor> rms_norm_quant(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& residual,
                                          double epsilon, ScalarType quant_dtype) {
  constexpr const char* op = "rms_norm_quant";
  const DType dtype = dtype_of(x, op, "x");
  const QuantType quant_type = quant_type_of(quant_dtype, op);
  require_dtype(weight, x.scalar_type(), op, "weight");
  if (residual) require_dtype(*residual, x.scalar_type(), op, "residual");

  require_rows(x, op, "x");
  require_vector(weight, op, "weight");
  if (residual) require_rows(*residual, op, "residual");

  const int64_t num_tokens = x.size(0), hidden = x.size(1);
  require(hidden > 0, op, ": x must have at least one element a row");
  require(num_tokens <= kMaxBlocks, op, ": at most ", kMaxBlocks, " tokens, x has ", num_tokens);
  require_size(weight, 0, hidden, op, "weight");
  if (residual) {
    require_size(*residual, 0, num_tokens, op, "residual");
    require_size(*residual, 1, hidden, op, "residual");
    require(num_tokens <= 1 || residual->stride(0) >= hidden, op, ": rows of residual must not overlap");
  }
  require(epsilon > 0, op, ": epsilon must be positive, it is ", epsilon);

  require_cuda(x, op, "x");
  require_same_device(weight, x, op, "weight");
  if (residual) require_same_device(*residual, x, op, "residual");
  require_arch(x, op);

  Tensor quantized = new_empty(x, {num_tokens, hidden}, quant_dtype);
  Tensor scales = new_empty(x, {num_tokens, 1}, ScalarType::Float);
  if (num_tokens > 0) {
    launch_on(x,
              RmsNormQuantArgs{
                  .x = x.data_ptr(),
                  .residual = residual ? residual->data_ptr() : nullptr,
                  .weight = weight.data_ptr(),
                  .quantized = quantized.data_ptr(),
                  .scales = static_cast<float*>(scales.data_ptr()),
                  .num_tokens = num_tokens,
                  .hidden = hidden,
                  .x_stride = x.stride(0),
                  .residual_stride = residual ? residual->stride(0) : 0,
                  .epsilon = static_cast<float>(epsilon),
                  .dtype = dtype,
                  .quant_type = quant_type,
              },
              op);
  }
  return {quantized, scales};
}

std::tuple<Tensor, Tensor> silu_mul_quant(const Tensor& gate_up, int64_t group_size, ScalarType quant_dtype) {
  constexpr const char* op = "silu_mul_quant";
  const DType dtype = dtype_of(gate_up, op, "gate_up");
  const QuantType quant_type = quant_type_of(quant_dtype, op);

  require_rows(gate_up, op, "gate_up");

  const int64_t num_tokens = gate_up.size(0), width = gate_up.size(1) / 2;
  require(width > 0 && gate_up.size(1) % 2 == 0, op,
          ": a row of gate_up must be as many gates as ups, its size is ", gate_up.size(1));
  require(group_size >= 0, op, ": group_size must be 0 (a scale a token) or more, it is ", group_size);
  const int64_t group = group_size == 0 ? width : group_size;
  const int64_t num_groups = (width - 1) / group + 1;
  require(num_tokens <= kMaxBlocks / num_groups, op, ": at most ", kMaxBlocks, " groups, gate_up has ", num_tokens,
          " tokens of ", num_groups);

  require_cuda(gate_up, op, "gate_up");
  require_arch(gate_up, op);

  Tensor quantized = new_empty(gate_up, {num_tokens, width}, quant_dtype);
  Tensor scales = new_empty(gate_up, {num_tokens, num_groups}, ScalarType::Float);
  if (num_tokens > 0) {
    launch_on(gate_up,
              SiluMulQuantArgs{
                  .gate_up = gate_up.data_ptr(),
                  .quantized = quantized.data_ptr(),
                  .scales = static_cast<float*>(scales.data_ptr()),
                  .num_tokens = num_tokens,
                  .width = width,
                  .gate_up_stride = gate_up.stride(0),
                  .group_size = group,
                  .num_groups = num_groups,
                  .dtype = dtype,
                  .quant_type = quant_type,
              },
              op);
  }
  return {quantized, scales};
}

std::tuple<Tensor, Tensor> label_scores(const Tensor& hidden_states, const Tensor& lm_head,
                                        const Tensor& label_token_ids, const Tensor& label_offsets) {
  constexpr const char* op = "label_scores";
  const DType dtype = dtype_of(hidden_states, op, "hidden_states");
  require_dtype(lm_head, hidden_states.scalar_type(), op, "lm_head");
  require_dtype(label_token_ids, ScalarType::Long, op, "label_token_ids");
  require_dtype(label_offsets, ScalarType::Long, op, "label_offsets");

  require_rows(hidden_states, op, "hidden_states");
  require_rows(lm_head, op, "lm_head");
  require_vector(label_token_ids, op, "label_token_ids");
  require_vector(label_offsets, op, "label_offsets");

  const int64_t num_tokens = hidden_states.size(0), hidden = hidden_states.size(1);
  require(num_tokens <= kMaxBlocks, op, ": at most ", kMaxBlocks, " rows, hidden_states has ", num_tokens);
  require(lm_head.size(0) > 0, op, ": lm_head must have at least one row");
  require_size(lm_head, 1, hidden, op, "lm_head");
  require_size(label_offsets, 0, num_tokens + 1, op, "label_offsets");

  require_cuda(hidden_states, op, "hidden_states");
  require_same_device(lm_head, hidden_states, op, "lm_head");
  require_same_device(label_token_ids, hidden_states, op, "label_token_ids");
  require_same_device(label_offsets, hidden_states, op, "label_offsets");
  require_arch(hidden_states, op);

  const int64_t num_labels = label_token_ids.size(0);
  Tensor log_probs = new_empty(hidden_states, {num_labels}, ScalarType::Float);
  Tensor best = new_empty(hidden_states, {num_tokens}, ScalarType::Long);
  if (num_tokens > 0) {
    launch_on(hidden_states,
              LabelScoresArgs{
                  .hidden_states = hidden_states.data_ptr(),
                  .lm_head = lm_head.data_ptr(),
                  .label_token_ids = static_cast<const int64_t*>(label_token_ids.data_ptr()),
                  .label_offsets = static_cast<const int64_t*>(label_offsets.data_ptr()),
                  .log_probs = static_cast<float*>(log_probs.data_ptr()),
                  .best = static_cast<int64_t*>(best.data_ptr()),
                  .num_tokens = num_tokens,
                  .hidden = hidden,
                  .vocab = lm_head.size(0),
                  .num_labels = num_labels,
                  .hidden_stride = hidden_states.stride(0),
                  .lm_head_stride = lm_head.stride(0),
                  .dtype = dtype,
              },
              op);
  }
  return {log_probs, best};
}

Tensor min_hash(const Tensor& token_ids, const Tensor& offsets, int64_t num_hashes, int64_t shingle_size,
                int64_t seed) {
  constexpr const char* op = "min_hash";
  const ScalarType dtype = token_ids.scalar_type();
  require(dtype == ScalarType::Int || dtype == ScalarType::Long, op,
          ": token_ids must be int32 or int64, it is ", dtype);
  require_dtype(offsets, ScalarType::Long, op, "offsets");

  require_vector(token_ids, op, "token_ids");
  require_vector(offsets, op, "offsets");

  require(offsets.size(0) > 0, op, ": offsets must have one number more than there are sequences, it is empty");
  require(num_hashes > 0 && num_hashes <= 65535, op, ": num_hashes must be 1 to 65535, it is ", num_hashes);
  require(shingle_size > 0, op, ": shingle_size must be at least 1, it is ", shingle_size);
  const int64_t num_sequences = offsets.size(0) - 1;
  require(num_sequences <= kMaxBlocks, op, ": at most ", kMaxBlocks, " sequences, there are ", num_sequences);

  require_cuda(token_ids, op, "token_ids");
  require_same_device(offsets, token_ids, op, "offsets");
  require_arch(token_ids, op);

  Tensor signatures = new_empty(token_ids, {num_sequences, num_hashes}, ScalarType::Long);
  if (num_sequences > 0) {
    launch_on(token_ids,
              MinHashArgs{
                  .token_ids = token_ids.data_ptr(),
                  .offsets = static_cast<const int64_t*>(offsets.data_ptr()),
                  .signatures = static_cast<int64_t*>(signatures.data_ptr()),
                  .num_tokens = token_ids.size(0),
                  .num_sequences = num_sequences,
                  .num_hashes = num_hashes,
                  .shingle_size = shingle_size,
                  .seed = seed,
                  .wide_tokens = dtype == ScalarType::Long,
              },
              op);
  }
  return signatures;
}

}  // namespace
}  // namespace docmill

// For ctypes: an op of PyTorch's would have to be declared, faked and dispatched without a tensor. Returns a CUDA error.
extern "C" __attribute__((visibility("default"))) int docmill_num_calls(const char* op, uint64_t* number) {
  const std::string_view name = op;
  if (name == "rms_norm_quant") return docmill::rms_norm_quant_calls(number);
  if (name == "silu_mul_quant") return docmill::silu_mul_quant_calls(number);
  if (name == "label_scores") return docmill::label_scores_calls(number);
  if (name == "min_hash") return docmill::min_hash_calls(number);
  return cudaErrorInvalidValue;
}

STABLE_TORCH_LIBRARY_IMPL(docmill, CUDA, library) {
  library.impl("rms_norm_quant", TORCH_BOX(&docmill::rms_norm_quant));
  library.impl("silu_mul_quant", TORCH_BOX(&docmill::silu_mul_quant));
  library.impl("label_scores", TORCH_BOX(&docmill::label_scores));
  library.impl("min_hash", TORCH_BOX(&docmill::min_hash));
}
