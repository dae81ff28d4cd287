// rms_norm_quant: residual add, RMSNorm and per-token quantisation in one pass over memory.
//
// Grid: one block a token. A block: reads its row once, 16 bytes a thread at a time, keeps it in registers (as
// floats, already times the weight), reduces the sum of squares and the largest magnitude in one step, and writes the
// row's bytes and its scale.
// Bytes moved, a token of H bf16: 2 H read, H written; with a residual 4 H read, 3 H written. The weight (2 H) stays
// in L2. Roofline: memory. At an H100's 3.35 TB/s the 3 bytes of an element last for 26 instructions (7 bytes: 62). It
// takes about 15 (20), and some 150 a thread besides: hence 16 or 32 elements a thread rather than 8 and more threads.
#include "calls.cuh"
#include "vec.cuh"

namespace docmill {
namespace {

constexpr int kMinItems = 2;  // 16-byte pieces a thread
constexpr int kMaxItems = 4;  // 32 floats of the 64 registers that 1,024 threads may have

// The factor that normalises the row, its scale, and the reciprocal of the scale. A row whose squares do not sum to a
// finite number gets NaN for its scale.
struct RowFactors {
  float rstd, scale, inverse;
};

template <typename Quant>
__device__ __forceinline__ RowFactors row_factors(float sum_squares, unsigned largest, const RmsNormQuantArgs& args) {
  const float rstd = 1.0f / sqrtf(sum_squares / static_cast<float>(args.hidden) + args.epsilon);
  const float largest_normalized = sum_squares <= FLT_MAX ? __uint_as_float(largest) * rstd : not_a_number();
  const float scale = row_scale<Quant>(largest_normalized);
  return {rstd, scale, 1.0f / scale};
}

template <typename T, typename Quant, int kItems>
__global__ void __launch_bounds__(kItems == kMaxItems ? 1024 : 128, 1) rms_norm_quant_rows(const RmsNormQuantArgs args) {
  count_call();
  const int64_t token = blockIdx.x;
  const T* x = static_cast<const T*>(args.x) + token * args.x_stride;
  T* residual = static_cast<T*>(args.residual) + token * args.residual_stride;
  const T* weight = static_cast<const T*>(args.weight);
  uint8_t* quantized = static_cast<uint8_t*>(args.quantized) + token * args.hidden;
  const int hidden = static_cast<int>(args.hidden);
  const auto place = [](int item) { return static_cast<int>(item * blockDim.x + threadIdx.x) * kVec<T>; };

  Vec<T> row[kItems];
#pragma unroll
  for (int item = 0; item < kItems; ++item) {
    if (place(item) < hidden) row[item] = load_constant(x + place(item));
  }
  if (args.residual != nullptr) {
    Vec<T> old[kItems];
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      if (place(item) < hidden) old[item] = load(residual + place(item));
    }
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      if (place(item) >= hidden) continue;
#pragma unroll
      for (int i = 0; i < kVec<T>; ++i) {
        row[item].element[i] = from_float<T>(to_float(row[item].element[i]) + to_float(old[item].element[i]));
      }
      store(residual + place(item), row[item]);
    }
  }

  float weighted[kItems][kVec<T>] = {};
  float sum_squares = 0.0f;
  unsigned largest = 0;
#pragma unroll
  for (int item = 0; item < kItems; ++item) {
    if (place(item) >= hidden) continue;
    const Vec<T> factors = load_constant(weight + place(item));
#pragma unroll
    for (int i = 0; i < kVec<T>; ++i) {
      const float value = to_float(row[item].element[i]);
      sum_squares = fmaf(value, value, sum_squares);
      weighted[item][i] = value * to_float(factors.element[i]);
      largest = max(largest, magnitude(weighted[item][i]));
    }
  }
  block_sum_and_max(sum_squares, largest);

  const RowFactors row_is = row_factors<Quant>(sum_squares, largest, args);
  if (threadIdx.x == 0) args.scales[token] = row_is.scale;
#pragma unroll
  for (int item = 0; item < kItems; ++item) {
    if (place(item) >= hidden) continue;
    // Two products and not one: rstd / scale overflows for a row of zeros.
#pragma unroll
    for (int i = 0; i < kVec<T>; ++i) weighted[item][i] *= row_is.rstd;
    store_quantized<Quant>(quantized + place(item), weighted[item], row_is.inverse);
  }
}

// Rows of any length at any address, one element at a time; the second look at the row comes from the caches.
template <typename T, typename Quant>
__global__ void __launch_bounds__(256) rms_norm_quant_any(const RmsNormQuantArgs args) {
  count_call();
  const int64_t token = blockIdx.x;
  const T* x = static_cast<const T*>(args.x) + token * args.x_stride;
  T* residual = static_cast<T*>(args.residual) + token * args.residual_stride;
  const T* weight = static_cast<const T*>(args.weight);
  uint8_t* quantized = static_cast<uint8_t*>(args.quantized) + token * args.hidden;

  float sum_squares = 0.0f;
  unsigned largest = 0;
  for (int64_t i = threadIdx.x; i < args.hidden; i += blockDim.x) {
    T element = x[i];
    if (args.residual != nullptr) {
      element = from_float<T>(to_float(element) + to_float(residual[i]));
      residual[i] = element;
    }
    const float value = to_float(element);
    sum_squares = fmaf(value, value, sum_squares);
    largest = max(largest, magnitude(value * to_float(weight[i])));
  }
  block_sum_and_max(sum_squares, largest);

  const RowFactors row_is = row_factors<Quant>(sum_squares, largest, args);
  if (threadIdx.x == 0) args.scales[token] = row_is.scale;
  const T* row = args.residual != nullptr ? residual : x;  // each thread reads what it wrote itself
  for (int64_t i = threadIdx.x; i < args.hidden; i += blockDim.x) {
    const float normalized = to_float(row[i]) * to_float(weight[i]) * row_is.rstd;
    store_quantized<Quant>(quantized + i, normalized * row_is.inverse);
  }
}

template <typename T, typename Quant>
void launch_typed(const RmsNormQuantArgs& args, cudaStream_t stream) {
  const bool aligned = args.hidden % kVec<T> == 0 && rows_are_aligned<T>(args.x, args.x_stride) &&
                       rows_are_aligned<T>(args.residual, args.residual_stride) && rows_are_aligned<T>(args.weight, 0);
  const int64_t pieces = args.hidden / kVec<T>;
  const unsigned blocks = static_cast<unsigned>(args.num_tokens);
  if (!aligned || pieces > kMaxItems * 1024) {
    rms_norm_quant_any<T, Quant><<<blocks, 256, 0, stream>>>(args);
  } else if (pieces <= kMinItems * 128) {
    rms_norm_quant_rows<T, Quant, kMinItems>
        <<<blocks, round_up_to_warps(div_up(pieces, kMinItems)), 0, stream>>>(args);
  } else {
    rms_norm_quant_rows<T, Quant, kMaxItems>
        <<<blocks, round_up_to_warps(div_up(pieces, kMaxItems)), 0, stream>>>(args);
  }
}

}  // namespace

cudaError_t launch(const RmsNormQuantArgs& args, cudaStream_t stream) {
  with_dtype(args.dtype, [&](auto dtype) {
    with_quant_type(args.quant_type, [&](auto quant_type) {
      launch_typed<typename decltype(dtype)::type, typename decltype(quant_type)::type>(args, stream);
    });
  });
  return cudaGetLastError();
}

cudaError_t rms_norm_quant_calls(uint64_t* number) { return read_calls(number); }

}  // namespace docmill
