// silu_mul_quant: SiLU(gate) * up and quantisation in one pass over memory, one scale a token or a group.
//
// A scale for a whole token. Grid: one block a token. A block: reads the row's gates and ups once, 16 bytes a thread
// at a time, keeps the products in registers, reduces their largest magnitude, writes the row's bytes and its scale.
// A scale for each group. Grid: (tokens, pieces of 256 threads). A block: 256 pieces of 16 bytes of one token; the
// 2 to 32 neighbouring lanes that hold a group agree on its scale by shuffles, without a barrier.
// Bytes moved, a token of W bf16 products: 4 W read, W written. Roofline: memory. At an H100's 3.35 TB/s the 5 bytes of
// an element last for 44 instructions. It takes about 19, with the fast exponential and division, and some 100 a thread
// besides: hence 16 or 32 elements a thread rather than 8 and more threads.
#include "calls.cuh"
#include "vec.cuh"

namespace docmill {
namespace {

constexpr int kMinItems = 2;  // 16-byte pieces a thread
constexpr int kMaxItems = 4;  // 32 floats of the 64 registers that 1,024 threads may have
constexpr int kGroupThreads = 256;

__device__ __forceinline__ float silu_mul(float gate, float up) {
  return __fdividef(gate, 1.0f + __expf(-gate)) * up;
}

template <typename T>
__device__ __forceinline__ unsigned silu_mul(const Vec<T>& gate, const Vec<T>& up, float (&products)[kVec<T>]) {
  unsigned largest = 0;
#pragma unroll
  for (int i = 0; i < kVec<T>; ++i) {
    products[i] = silu_mul(to_float(gate.element[i]), to_float(up.element[i]));
    largest = max(largest, magnitude(products[i]));
  }
  return largest;
}

template <typename T, typename Quant, int kItems>
__global__ void __launch_bounds__(kItems == kMaxItems ? 1024 : 128, 1) silu_mul_quant_rows(const SiluMulQuantArgs args) {
  count_call();
  const int64_t token = blockIdx.x;
  const T* gate = static_cast<const T*>(args.gate_up) + token * args.gate_up_stride;
  const T* up = gate + args.width;
  uint8_t* quantized = static_cast<uint8_t*>(args.quantized) + token * args.width;
  const int width = static_cast<int>(args.width);
  const auto place = [](int item) { return static_cast<int>(item * blockDim.x + threadIdx.x) * kVec<T>; };

  float products[kItems][kVec<T>];
  unsigned largest = 0;
#pragma unroll
  for (int item = 0; item < kItems; ++item) {
    if (place(item) >= width) continue;
    const Vec<T> gates = load_constant(gate + place(item));
    largest = max(largest, silu_mul(gates, load_constant(up + place(item)), products[item]));
  }
  const float scale = row_scale<Quant>(__uint_as_float(block_max(largest)));
  if (threadIdx.x == 0) args.scales[token] = scale;
#pragma unroll
  for (int item = 0; item < kItems; ++item) {
    if (place(item) < width) store_quantized<Quant>(quantized + place(item), products[item], 1.0f / scale);
  }
}

template <typename T, typename Quant>
__global__ void __launch_bounds__(kGroupThreads) silu_mul_quant_groups(const SiluMulQuantArgs args, int log2_lanes) {
  count_call();
  const int64_t token = blockIdx.x;
  const T* gate = static_cast<const T*>(args.gate_up) + token * args.gate_up_stride;
  const int piece = static_cast<int>(blockIdx.y * kGroupThreads + threadIdx.x);
  const int place = piece * kVec<T>;
  const bool inside = place < args.width;

  float products[kVec<T>];
  unsigned largest = 0;
  if (inside) largest = silu_mul(load_constant(gate + place), load_constant(gate + args.width + place), products);
  for (int lanes = (1 << log2_lanes) / 2; lanes > 0; lanes /= 2) {
    largest = max(largest, __shfl_xor_sync(kAllLanes, largest, lanes));
  }
  if (!inside) return;
  const float scale = row_scale<Quant>(__uint_as_float(largest));
  const int group = piece >> log2_lanes;
  if (group << log2_lanes == piece) args.scales[token * args.num_groups + group] = scale;
  store_quantized<Quant>(static_cast<uint8_t*>(args.quantized) + token * args.width + place, products, 1.0f / scale);
}

// Rows and groups of any length at any address: one block a group, one element at a time, computed twice; the second
// look comes from the caches.
template <typename T, typename Quant>
__global__ void __launch_bounds__(256) silu_mul_quant_any(const SiluMulQuantArgs args) {
  count_call();
  const int64_t token = blockIdx.x / static_cast<unsigned>(args.num_groups);
  const int64_t group = blockIdx.x % static_cast<unsigned>(args.num_groups);
  const T* gate = static_cast<const T*>(args.gate_up) + token * args.gate_up_stride;
  const T* up = gate + args.width;
  const int64_t begin = group * args.group_size;
  const int64_t end = min(begin + args.group_size, args.width);

  unsigned largest = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
    largest = max(largest, magnitude(silu_mul(to_float(gate[i]), to_float(up[i]))));
  }
  const float scale = row_scale<Quant>(__uint_as_float(block_max(largest)));
  if (threadIdx.x == 0) args.scales[blockIdx.x] = scale;
  uint8_t* quantized = static_cast<uint8_t*>(args.quantized) + token * args.width;
  for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
    store_quantized<Quant>(quantized + i, silu_mul(to_float(gate[i]), to_float(up[i])) * (1.0f / scale));
  }
}

// The logarithm of how many lanes hold a group in the vectorised kernel; 0 where it cannot serve.
template <typename T>
int log2_lanes_of(int64_t group_size) {
  for (int log2_lanes = 1; log2_lanes <= 5; ++log2_lanes) {
    if (kVec<T> << log2_lanes == group_size) return log2_lanes;
  }
  return 0;
}

template <typename T, typename Quant>
void launch_typed(const SiluMulQuantArgs& args, cudaStream_t stream) {
  const bool aligned = args.width % kVec<T> == 0 && rows_are_aligned<T>(args.gate_up, args.gate_up_stride);
  const int64_t pieces = args.width / kVec<T>;
  const int64_t blocks_a_token = div_up(pieces, kGroupThreads);
  const unsigned tokens = static_cast<unsigned>(args.num_tokens);
  const int log2_lanes = log2_lanes_of<T>(args.group_size);
  if (aligned && args.num_groups == 1 && pieces <= kMaxItems * 1024) {
    if (pieces <= kMinItems * 128) {
      silu_mul_quant_rows<T, Quant, kMinItems>
          <<<tokens, round_up_to_warps(div_up(pieces, kMinItems)), 0, stream>>>(args);
    } else {
      silu_mul_quant_rows<T, Quant, kMaxItems>
          <<<tokens, round_up_to_warps(div_up(pieces, kMaxItems)), 0, stream>>>(args);
    }
  } else if (aligned && args.num_groups > 1 && log2_lanes > 0 && blocks_a_token <= 65535) {
    const dim3 grid(tokens, static_cast<unsigned>(blocks_a_token));
    silu_mul_quant_groups<T, Quant><<<grid, kGroupThreads, 0, stream>>>(args, log2_lanes);
  } else {
    const unsigned groups = static_cast<unsigned>(args.num_tokens * args.num_groups);
    silu_mul_quant_any<T, Quant><<<groups, args.group_size > 128 ? 256 : 64, 0, stream>>>(args);
  }
}

}  // namespace

cudaError_t launch(const SiluMulQuantArgs& args, cudaStream_t stream) {
  with_dtype(args.dtype, [&](auto dtype) {
    with_quant_type(args.quant_type, [&](auto quant_type) {
      launch_typed<typename decltype(dtype)::type, typename decltype(quant_type)::type>(args, stream);
    });
  });
  return cudaGetLastError();
}

cudaError_t silu_mul_quant_calls(uint64_t* number) { return read_calls(number); }

}  // namespace docmill
