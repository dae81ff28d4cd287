// Host checks of the ops' arguments. Each says in its message what is required and what came.
//
// In an op they stand in blocks: dtype, layout, shape, device, architecture. What a CUDA device is needed for comes
// last, so that a machine without one can test the others.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>

#include "ops.h"

namespace docmill {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMaxBlocks = 2147483647;  // of a grid's first dimension

// Not STD_TORCH_CHECK: its message begins with the path of this file on the machine that compiled it.
template <typename... Parts>
void require(bool holds, const Parts&... message) {
  if (holds) return;
  std::ostringstream text;
  (text << ... << message);
  throw std::runtime_error(text.str());
}

inline DType dtype_of(const Tensor& tensor, const char* op, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::Half: return DType::kFloat16;
    case ScalarType::BFloat16: return DType::kBFloat16;
    default:
      require(false, op, ": ", name, " must be float32, float16 or bfloat16, it is ", tensor.scalar_type());
  }
  return DType::kFloat32;
}

inline QuantType quant_type_of(ScalarType dtype, const char* op) {
  require(dtype == ScalarType::Float8_e4m3fn || dtype == ScalarType::Char, op,
          ": quant_dtype must be float8_e4m3fn or int8, it is ", dtype);
  return dtype == ScalarType::Char ? QuantType::kInt8 : QuantType::kFp8E4m3;
}

inline void require_dtype(const Tensor& tensor, ScalarType dtype, const char* op, const char* name) {
  require(tensor.scalar_type() == dtype, op, ": ", name, " must be ", dtype, ", it is ", tensor.scalar_type());
}

inline void require_dim(const Tensor& tensor, int64_t dim, const char* op, const char* name) {
  require(tensor.dim() == dim, op, ": ", name, " must have ", dim, " dimension(s), it has ", tensor.dim());
}

// [rows, size]: the elements of a row adjacent, rows wherever the stride says.
inline void require_rows(const Tensor& tensor, const char* op, const char* name) {
  require_dim(tensor, 2, op, name);
  require(tensor.size(1) <= 1 || tensor.stride(1) == 1, op, ": the elements of a row of ", name,
          " must be adjacent, their stride is ", tensor.stride(1));
}

inline void require_vector(const Tensor& tensor, const char* op, const char* name) {
  require_dim(tensor, 1, op, name);
  require(tensor.is_contiguous(), op, ": ", name, " must be contiguous, its stride is ", tensor.stride(0));
}

inline void require_size(const Tensor& tensor, int64_t dim, int64_t size, const char* op, const char* name) {
  require(tensor.size(dim) == size, op, ": ", name, " must have size ", size, " in dimension ", dim, ", it has ",
          tensor.size(dim));
}

inline void require_same_device(const Tensor& tensor, const Tensor& as, const char* op, const char* name) {
  require(tensor.is_cuda() && tensor.get_device_index() == as.get_device_index(), op, ": ", name,
          " must be on the same CUDA device as the first argument");
}

inline void require_cuda(const Tensor& tensor, const char* op, const char* name) {
  require(tensor.is_cuda(), op, ": ", name, " must be on a CUDA device");
}

// The binary holds code for sm_80, sm_90a and, as PTX, for what came after.
inline void require_arch(const Tensor& tensor, const char* op) {
  int major = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, tensor.get_device_index());
  require(error == cudaSuccess, op, ": ", cudaGetErrorString(error));
  require(major >= 8, op, ": needs a GPU of compute capability 8.0 or more (A100, H100), this one has ", major, ".x");
}

}  // namespace docmill
