# Says whether a CUDA toolkit is here. It is never required: only QIANYI_CUDA (the preset `cuda`)
# asks for one. The emulation of kernels/cuda needs none.
find_package(CUDAToolkit QUIET)
if(CUDAToolkit_FOUND)
  message(STATUS "CUDA toolkit: ${CUDAToolkit_VERSION} in ${CUDAToolkit_BIN_DIR}")
else()
  message(STATUS "CUDA toolkit: none (not needed)")
endif()
if(QIANYI_CUDA)
  if(NOT CUDAToolkit_FOUND)
    message(FATAL_ERROR
      "QIANYI_CUDA (the preset `cuda`) needs a CUDA toolkit, and there is no nvcc in PATH, "
      "$CUDA_PATH or /usr/local/cuda. Install one, or build the preset `release`.")
  endif()
  # Machine code for the architectures that are named, and PTX of the last one for later devices.
  set(CMAKE_CUDA_ARCHITECTURES "80-real;89-real;90" CACHE STRING "What nvcc compiles for")
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know it of nvcc 13
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  # No contraction: an fma is written where it is meant, as on the CPU. The C++ warnings are those
  # of the emulated build of the same files.
  set(QIANYI_NVCC_FLAGS -fmad=false -Werror all-warnings -Xcompiler=-Wall,-Wextra,-Werror)
endif()
