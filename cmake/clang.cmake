# The compiler of the fuzzers: the distribution's default clang, or the newest there is.
find_program(QIANYI_CLANG NAMES clang++ clang++-20 clang++-19 clang++-18 clang++-17 clang++-16
                                clang++-15 clang++-14)
if(NOT QIANYI_CLANG)
  message(FATAL_ERROR "The fuzzers need clang++; install it with `scripts/setup test`.")
endif()
set(CMAKE_CXX_COMPILER ${QIANYI_CLANG})
