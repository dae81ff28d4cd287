// What the kernels do alike: 16-byte accesses, conversions, quantisation, reductions over a block.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cfloat>
#include <cstdint>
#include <type_traits>

#include "ops.h"

namespace docmill {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

inline int64_t div_up(int64_t number, int64_t by) { return (number + by - 1) / by; }
inline int round_up_to_warps(int64_t threads) { return static_cast<int>(div_up(threads, kWarp) * kWarp); }

// ---- 16 bytes at a time -------------------------------------------------------------------------------------------

template <typename T>
constexpr int kVec = 16 / sizeof(T);

template <typename T>
struct alignas(16) Vec {
  T element[kVec<T>];
};

// Of memory that this kernel does not write: the compiler may move the load up, ahead of stores.
template <typename T>
__device__ __forceinline__ Vec<T> load_constant(const T* source) {
  Vec<T> vec;
  *reinterpret_cast<uint4*>(&vec) = __ldg(reinterpret_cast<const uint4*>(source));
  return vec;
}

template <typename T>
__device__ __forceinline__ Vec<T> load(const T* source) {
  Vec<T> vec;
  *reinterpret_cast<uint4*>(&vec) = *reinterpret_cast<const uint4*>(source);
  return vec;
}

template <typename T>
__device__ __forceinline__ void store(T* target, const Vec<T>& vec) {
  *reinterpret_cast<uint4*>(target) = *reinterpret_cast<const uint4*>(&vec);
}

// Whether every row begins at a multiple of 16 bytes. The length of a row is for the caller to check.
template <typename T>
bool rows_are_aligned(const void* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % kVec<T> == 0;
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ __forceinline__ T from_float(float value) {
  if constexpr (sizeof(T) == 4) {
    return value;
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else {
    return __float2bfloat16_rn(value);
  }
}

// ---- Quantisation -------------------------------------------------------------------------------------------------

__device__ __forceinline__ float not_a_number() { return __uint_as_float(0x7fc00000u); }

// The magnitude of a float as an integer: ordered as the magnitudes are, infinity above all numbers and NaN above
// infinity. So a maximum of these does not lose a NaN, as fmaxf does, and one instruction takes it over a warp.
__device__ __forceinline__ unsigned magnitude(float value) { return __float_as_uint(value) & 0x7fffffffu; }

struct Int8 {
  static constexpr float kLargest = 127.0f;

  // Two values, each already divided by the scale, so none rounds to more than the largest; NaN becomes 0.
  static __device__ __forceinline__ unsigned pair(float low, float high) { return byte(low) | byte(high) << 8; }

  static __device__ __forceinline__ unsigned byte(float value) {
    return static_cast<unsigned>(__float2int_rn(value)) & 0xffu;
  }
};

struct Fp8E4m3 {
  static constexpr float kLargest = 448.0f;

  // Two values, each already divided by the scale; half to even, what is too large becomes the largest, NaN stays.
  static __device__ __forceinline__ unsigned pair(float low, float high) {
#if __CUDA_ARCH__ >= 890
    return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
#else
    return byte(low) | byte(high) << 8;
#endif
  }

  // Before sm_89 there is no instruction for it, and CUDA's own header goes through double, at 1/32 of the speed.
  static __device__ __forceinline__ unsigned byte(float value) {
    const unsigned sign = __float_as_uint(value) >> 24 & 0x80u;
    unsigned bits = magnitude(value);
    if (bits > 0x7f800000u) return 0x7fu;
    bits = min(bits, 0x43e00000u);  // 448
    if (bits < 0x3c800000u) {       // 2^-6, the smallest normal number: below it e4m3's steps are 2^-9, as float's at 2^14
      return sign | (__float_as_uint(__uint_as_float(bits) + 16384.0f) - __float_as_uint(16384.0f));
    }
    const unsigned half_to_even = 0x7ffffu + (bits >> 20 & 1u);
    return sign | (bits - (120u << 23) + half_to_even) >> 20;  // 120: the difference of the exponents' biases
  }
};

// The scale of a row whose largest magnitude is given: at least the smallest normal number, so that its reciprocal
// is finite; NaN for a row that holds an infinity or NaN.
template <typename Quant>
__device__ __forceinline__ float row_scale(float largest) {
  const float scale = largest / Quant::kLargest;
  return scale <= FLT_MAX ? fmaxf(scale, FLT_MIN) : not_a_number();
}

// Quantises N values, each times `factor`, and stores them as N bytes.
template <typename Quant, int N>
__device__ __forceinline__ void store_quantized(void* target, const float (&values)[N], float factor) {
  static_assert(N == 4 || N == 8);
  unsigned words[N / 4] = {};
#pragma unroll
  for (int i = 0; i < N; i += 2) {
    words[i / 4] |= Quant::pair(values[i] * factor, values[i + 1] * factor) << (8 * (i % 4));
  }
  if constexpr (N == 8) {
    *static_cast<uint2*>(target) = make_uint2(words[0], words[1]);
  } else {
    *static_cast<unsigned*>(target) = words[0];
  }
}

template <typename Quant>
__device__ __forceinline__ void store_quantized(void* target, float value) {
  *static_cast<uint8_t*>(target) = static_cast<uint8_t>(Quant::pair(value, 0.0f));
}

// ---- Reductions ---------------------------------------------------------------------------------------------------
// Of all threads of the block, into all of them, in the same order every time. The block is whole warps. Shared
// memory is one word a warp and the lanes read neighbouring words, so there are no bank conflicts.

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
  return value;
}

// Both at once, with one barrier. Call it once in a kernel: a second call would overwrite what is still being read.
__device__ __forceinline__ void block_sum_and_max(float& sum, unsigned& largest) {
  __shared__ float sums[kWarp];
  __shared__ unsigned maxima[kWarp];
  sum = warp_sum(sum);
  largest = __reduce_max_sync(kAllLanes, largest);
  const int lane = threadIdx.x % kWarp;
  if (lane == 0) {
    sums[threadIdx.x / kWarp] = sum;
    maxima[threadIdx.x / kWarp] = largest;
  }
  __syncthreads();
  const bool has_warp = lane < blockDim.x / kWarp;
  sum = warp_sum(has_warp ? sums[lane] : 0.0f);
  largest = __reduce_max_sync(kAllLanes, has_warp ? maxima[lane] : 0u);
}

__device__ __forceinline__ unsigned block_max(unsigned largest) {
  __shared__ unsigned maxima[kWarp];
  largest = __reduce_max_sync(kAllLanes, largest);
  const int lane = threadIdx.x % kWarp;
  if (lane == 0) maxima[threadIdx.x / kWarp] = largest;
  __syncthreads();
  return __reduce_max_sync(kAllLanes, lane < blockDim.x / kWarp ? maxima[lane] : 0u);
}

// ---- From run-time types to templates -----------------------------------------------------------------------------

template <typename T>
struct Type {
  using type = T;
};

template <typename Function>
void with_dtype(DType dtype, Function function) {
  switch (dtype) {
    case DType::kFloat32: return function(Type<float>{});
    case DType::kFloat16: return function(Type<__half>{});
    case DType::kBFloat16: return function(Type<__nv_bfloat16>{});
  }
}

template <typename Function>
void with_quant_type(QuantType quant_type, Function function) {
  switch (quant_type) {
    case QuantType::kFp8E4m3: return function(Type<Fp8E4m3>{});
    case QuantType::kInt8: return function(Type<Int8>{});
  }
}

}  // namespace docmill
