# Says whether a CUDA toolkit is here. It is never required: only QIANYI_CUDA (the preset
# `cuda`) asks for one, and even then this version has nothing to compile with it.
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
  message(STATUS "CUDA backend: this version has no CUDA kernels; the program is that of the "
                 "preset `release` and runs on the CPU")
endif()
