#include "smoe/tensor/one_thread.h"

// MKL is inside LibTorch, without its headers. Weak, since a LibTorch may be built without it. This is the name of C;
// the one in lower case is Fortran's and takes a pointer.
// NOLINTNEXTLINE(readability-identifier-naming): as MKL has it
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);

namespace smoe {

OneThreadProducts::OneThreadProducts() {
  if (MKL_Set_Num_Threads_Local != nullptr) before_ = MKL_Set_Num_Threads_Local(1);
}

OneThreadProducts::~OneThreadProducts() {
  if (MKL_Set_Num_Threads_Local != nullptr) MKL_Set_Num_Threads_Local(before_);  // 0 stands for "not set"
}

}  // namespace smoe
