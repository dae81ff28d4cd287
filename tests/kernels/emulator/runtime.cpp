// What bindings.cpp asks CUDA and the CUDA part of PyTorch for, answered as if the CPU were an H100. Linked with
// -Bsymbolic, so that the binary's own answers come before those of libtorch.
#include <cuda_runtime_api.h>

#include <cstdint>

extern "C" {

cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "no error"; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 9;  // the compute capability's major number is all that is asked
  return cudaSuccess;
}

int32_t aoti_torch_device_type_cuda() { return 0; }  // the CPU's number
int32_t aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}
int32_t aoti_torch_create_device_guard(int32_t, void** guard) {
  *guard = nullptr;
  return 0;
}
int32_t aoti_torch_delete_device_guard(void*) { return 0; }

}  // extern "C"
