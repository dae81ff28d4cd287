// What bindings.cpp and the kernels share: for each op its arguments and its launch. No header of torch comes in
// here, so a .cu knows only pointers and compiles in seconds.
//
// Pointers are to device memory and are not checked again. Strides count elements; the elements of a row are
// adjacent. Launches only queue work on the stream: they do not wait, allocate or look at data, so a CUDA graph can
// capture them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace docmill {

enum class DType { kFloat32, kFloat16, kBFloat16 };
enum class QuantType { kFp8E4m3, kInt8 };

struct RmsNormQuantArgs {
  const void* x;       // [num_tokens, hidden], dtype, row stride x_stride
  void* residual;      // [num_tokens, hidden], dtype, row stride residual_stride; read and written; may be null
  const void* weight;  // [hidden], dtype, contiguous
  void* quantized;     // [num_tokens, hidden], quant_type, contiguous
  float* scales;       // [num_tokens]
  int64_t num_tokens, hidden, x_stride, residual_stride;
  float epsilon;
  DType dtype;
  QuantType quant_type;
};

struct SiluMulQuantArgs {
  const void* gate_up;  // [num_tokens, 2 * width], dtype, row stride gate_up_stride; a row is all gates, then all ups
  void* quantized;      // [num_tokens, width], quant_type, contiguous
  float* scales;        // [num_tokens, num_groups], contiguous
  int64_t num_tokens, width, gate_up_stride;
  int64_t group_size, num_groups;  // num_groups * group_size >= width: the last group of a row may be shorter
  DType dtype;
  QuantType quant_type;
};

struct LabelScoresArgs {
  const void* hidden_states;       // [num_tokens, hidden], dtype, row stride hidden_stride
  const void* lm_head;             // [vocab, hidden], dtype, row stride lm_head_stride
  const int64_t* label_token_ids;  // [num_labels]
  const int64_t* label_offsets;    // [num_tokens + 1]
  float* log_probs;                // [num_labels]
  int64_t* best;                   // [num_tokens]
  int64_t num_tokens, hidden, vocab, num_labels, hidden_stride, lm_head_stride;
  DType dtype;
};

struct MinHashArgs {
  const void* token_ids;   // [num_tokens], int32 or int64, contiguous
  const int64_t* offsets;  // [num_sequences + 1]
  int64_t* signatures;     // [num_sequences, num_hashes], contiguous
  int64_t num_tokens, num_sequences, num_hashes, shingle_size, seed;
  bool wide_tokens;  // int64
};

// The error is that of the launch; what goes wrong while a kernel runs shows at the next synchronisation.
cudaError_t launch(const RmsNormQuantArgs& args, cudaStream_t stream);
cudaError_t launch(const SiluMulQuantArgs& args, cudaStream_t stream);
cudaError_t launch(const LabelScoresArgs& args, cudaStream_t stream);
cudaError_t launch(const MinHashArgs& args, cudaStream_t stream);

// How often the op's kernels have run on the current device, see calls.cuh.
cudaError_t rms_norm_quant_calls(uint64_t* number);
cudaError_t silu_mul_quant_calls(uint64_t* number);
cudaError_t label_scores_calls(uint64_t* number);
cudaError_t min_hash_calls(uint64_t* number);

}  // namespace docmill
