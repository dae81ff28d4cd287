// label_scores: log-probabilities of each row's labels and the best of them, without logits of the vocabulary.
//
// Grid: one block a row of hidden states. A block: each of its 4 warps takes every fourth label of the row and
// multiplies the hidden state with the label's row of the LM head, 16 bytes a lane at a time; the logits go where
// the log-probabilities will be, then the block normalises them in place. A row may have any number of labels.
// Bytes moved, a row of H bf16 with L labels: 2 H + 2 H L + 20 L. Rows that ask for the same labels find them in L2.
// Roofline: memory (L2 where labels repeat): 2 operations for 2 bytes. Against a full LM head of V tokens it reads
// L / V of the weights and writes no [rows, V] logits.
#include <cmath>

#include "calls.cuh"
#include "vec.cuh"

namespace docmill {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

// The sum over the warp of a row times another; in all lanes.
template <typename T, bool kAligned>
__device__ __forceinline__ float dot(const T* left, const T* right, int64_t size, int lane) {
  float sum = 0.0f;
  if constexpr (kAligned) {
#pragma unroll 4
    for (int64_t i = lane * kVec<T>; i < size; i += kWarp * kVec<T>) {
      const Vec<T> a = load_constant(left + i);
      const Vec<T> b = load_constant(right + i);
#pragma unroll
      for (int j = 0; j < kVec<T>; ++j) sum = fmaf(to_float(a.element[j]), to_float(b.element[j]), sum);
    }
  } else {
    for (int64_t i = lane; i < size; i += kWarp) sum = fmaf(to_float(left[i]), to_float(right[i]), sum);
  }
  return warp_sum(sum);
}

// A logit and its position as one number: the largest logit wins, NaN before all, and of equals the first.
__device__ __forceinline__ unsigned long long ranked(float logit, int64_t position) {
  const unsigned bits = __float_as_uint(logit == 0.0f ? 0.0f : logit);  // -0 and 0 are equals
  const unsigned rising = isnan(logit) ? 0xffffffffu : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(rising) << 32 | (0xffffffffu - static_cast<unsigned>(position));
}

__device__ __forceinline__ float logit_of(unsigned long long rank) {
  const unsigned rising = static_cast<unsigned>(rank >> 32);
  if (rising == 0xffffffffu) return not_a_number();
  return __uint_as_float(rising & 0x80000000u ? rising & 0x7fffffffu : ~rising);
}

__device__ __forceinline__ unsigned long long warp_max(unsigned long long rank) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) rank = max(rank, __shfl_xor_sync(kAllLanes, rank, lanes));
  return rank;
}

template <typename T, bool kAligned>
__global__ void __launch_bounds__(kThreads) label_scores_rows(const LabelScoresArgs args) {
  count_call();
  __shared__ unsigned long long ranks[kWarps];
  __shared__ float sums[kWarps];
  const int64_t row = blockIdx.x;
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  // Offsets that do not rise, or lead out of the labels, can give wrong rows but no wrong address.
  const int64_t begin = max(int64_t{0}, min(args.label_offsets[row], args.num_labels));
  const int64_t end = max(begin, min(args.label_offsets[row + 1], args.num_labels));
  const T* hidden_state = static_cast<const T*>(args.hidden_states) + row * args.hidden_stride;

  for (int64_t label = begin + warp; label < end; label += kWarps) {
    const int64_t token_id = args.label_token_ids[label];
    float logit = not_a_number();  // of an id that the vocabulary does not have
    if (token_id >= 0 && token_id < args.vocab) {
      const T* weight = static_cast<const T*>(args.lm_head) + token_id * args.lm_head_stride;
      logit = dot<T, kAligned>(hidden_state, weight, args.hidden, lane);
    }
    if (lane == 0) args.log_probs[label] = logit;
  }
  __syncthreads();  // makes the block's logits visible to all its threads

  unsigned long long rank = 0;
  for (int64_t label = begin + threadIdx.x; label < end; label += kThreads) {
    rank = max(rank, ranked(args.log_probs[label], label - begin));
  }
  rank = warp_max(rank);
  if (lane == 0) ranks[warp] = rank;
  __syncthreads();
  rank = warp_max(lane < kWarps ? ranks[lane] : 0ull);
  const float largest = logit_of(rank);

  float sum = 0.0f;
  for (int64_t label = begin + threadIdx.x; label < end; label += kThreads) {
    sum += expf(args.log_probs[label] - largest);
  }
  sum = warp_sum(sum);
  if (lane == 0) sums[warp] = sum;
  __syncthreads();
  const float log_sum = logf(warp_sum(lane < kWarps ? sums[lane] : 0.0f));

  for (int64_t label = begin + threadIdx.x; label < end; label += kThreads) {
    args.log_probs[label] = args.log_probs[label] - largest - log_sum;
  }
  if (threadIdx.x == 0) args.best[row] = begin < end ? int64_t{0xffffffffu - static_cast<unsigned>(rank)} : -1;
}

}  // namespace

cudaError_t launch(const LabelScoresArgs& args, cudaStream_t stream) {
  with_dtype(args.dtype, [&](auto dtype) {
    using T = typename decltype(dtype)::type;
    const bool aligned = args.hidden % kVec<T> == 0 && rows_are_aligned<T>(args.hidden_states, args.hidden_stride) &&
                         rows_are_aligned<T>(args.lm_head, args.lm_head_stride);
    const unsigned rows = static_cast<unsigned>(args.num_tokens);
    if (aligned) {
      label_scores_rows<T, true><<<rows, kThreads, 0, stream>>>(args);
    } else {
      label_scores_rows<T, false><<<rows, kThreads, 0, stream>>>(args);
    }
  });
  return cudaGetLastError();
}

cudaError_t label_scores_calls(uint64_t* number) { return read_calls(number); }

}  // namespace docmill
