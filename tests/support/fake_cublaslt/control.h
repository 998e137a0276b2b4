// What tests tell the library that stands for cuBLASLt, and learn from it.
#pragma once

struct FakeCublasLt {
  bool refuses = false;  // finds no algorithm
  bool fails = false;    // products fail that it had an algorithm for
  int searches = 0;      // for an algorithm
  int products = 0;
  int objects = 0;  // that nobody has destroyed
};
// The library exports `extern "C" FakeCublasLt* fake_cublaslt()`.
