# Our CUDA kernels: *_cuda.cu and the *_cuda.cpp that call them, or else the *_no_cuda.cpp that stand in for them.
set(SMOE_HAS_CUDA OFF)
if(SMOE_CUDA AND TARGET torch_cuda)
  set(SMOE_HAS_CUDA ON)  # a CUDA LibTorch looks for nvcc itself, and is not found without
  message(STATUS "CUDA: building our kernels with ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION}")
elseif(SMOE_CUDA)
  message(STATUS "CUDA: skipped, the LibTorch in ${TORCH_INSTALL_PREFIX} has none. This build is like release; for CUDA "
                 "have nvcc, and name a CUDA LibTorch in CMAKE_PREFIX_PATH")
endif()

file(GLOB_RECURSE stand_ins CONFIGURE_DEPENDS smoe/*_no_cuda.cpp)
file(GLOB_RECURSE kernels CONFIGURE_DEPENDS smoe/*_cuda.cu)
file(GLOB_RECURSE callers CONFIGURE_DEPENDS smoe/*_cuda.cpp)
list(REMOVE_ITEM callers ${stand_ins})
if(SMOE_HAS_CUDA)
  list(REMOVE_ITEM SMOE_SOURCES ${stand_ins})
  list(APPEND SMOE_SOURCES ${kernels})
  set(CMAKE_CUDA_STANDARD 17)  # CMake 3.25 knows no later one of nvcc, and the kernels need none
  # Lets kernels call constexpr functions, such as Philox.
  set_source_files_properties(${kernels} PROPERTIES COMPILE_OPTIONS --expt-relaxed-constexpr)
else()
  list(REMOVE_ITEM SMOE_SOURCES ${callers})
endif()
