// Large batches by cuBLASLt: on the emulated device with a library that stands for it, and on a
// real one where there is one.
#include <dlfcn.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <tuple>

#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/emulated.h"
#include "kernels/cuda/emulation.h"
#include "tests/kernels/cuda/mirror.h"
#include "tests/kernels/cuda/run_linear.h"
#include "tests/kernels/expect.h"
#include "tests/support/fake_cublaslt/control.h"

namespace qianyi::testing {
namespace {

// Beside this program, wherever that lies.
const std::string& LibraryPath() {
  static const std::string path =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "libfake_cublaslt.so";
  return path;
}

FakeCublasLt& Library() {
  static FakeCublasLt& state = [&]() -> FakeCublasLt& {
    void* const library = dlopen(LibraryPath().c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) throw std::runtime_error(dlerror());
    return *reinterpret_cast<FakeCublasLt* (*)()>(dlsym(library, "fake_cublaslt"))();
  }();
  return state;
}

const Backend& Emulated() {
  Library() = {.objects = Library().objects};
  cuda::emulation::SetStrictMemory(true);
  return cuda::EmulatedFastCuda(LibraryPath().c_str());
}

// Both factors are rounded to 8 bits: each product is off by 1/256 of itself at most, and the sum
// in f32 by a little more.
::testing::AssertionResult IsNear(const std::vector<float>& found, LinearProblem& problem) {
  const LinearCase& c = problem.shape;
  const std::vector<float> expected = problem.Run(*CpuVariants().items[0], 1);
  if (found.size() != expected.size()) return ::testing::AssertionFailure() << "no result";
  std::vector<float> weights(c.rows * c.cols);
  UnpackRows({problem.weight.data(), problem.format, c.rows, c.cols}, weights.data());
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (int64_t r = 0; r < c.rows; ++r) {
      double size = 0;
      for (int64_t k = 0; k < c.cols; ++k) {
        size += std::fabs(double{problem.x.view().f32(t)[k]} * weights[r * c.cols + k]);
      }
      const int64_t i = t * c.rows + r;
      if (!(std::fabs(found[i] - expected[i]) <= size / 240 + 1e-5)) {
        return ::testing::AssertionFailure() << "token " << t << ", row " << r << ": " << found[i]
                                             << " instead of " << expected[i];
      }
    }
  }
  return ::testing::AssertionSuccess();
}

constexpr LinearCase kLargeCases[] = {
    {128, 16, 64},
    {129, 15, 15, true, Residual::kSeparate},
    {200, 48, 95, true, Residual::kInPlace},
    {150, 129, 600, false, Residual::kSeparate},  // in parts of 48 rows and 51 tokens
    {300, 21, 577, true},
};

class CudaLibraryTest : public ::testing::TestWithParam<std::tuple<PackedFormat, LinearCase>> {};

TEST_P(CudaLibraryTest, IsWhatTheCpuComputes) {
  const auto& [format, shape] = GetParam();
  LinearProblem problem(shape, format);
  EXPECT_TRUE(IsNear(RunOn(Emulated(), problem, 0, shape.tokens), problem));
  const bool by_library = format.dtype != DType::kF32;
  EXPECT_EQ(Library().products > 0, by_library);
  if (FastCuda() != Cuda()) {
    EXPECT_TRUE(IsNear(RunOn(*FastCuda(), problem, 0, shape.tokens), problem));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaLibraryTest,
                         ::testing::Combine(::testing::ValuesIn(kFormats),
                                            ::testing::ValuesIn(kLargeCases)),
                         [](const auto& test) {
                           const LinearCase& c = std::get<1>(test.param);
                           return FormatName(std::get<0>(test.param)) + "_" +
                                  std::to_string(c.tokens) + "x" + std::to_string(c.rows) + "x" +
                                  std::to_string(c.cols);
                         });

TEST(CudaLibrary, FewTokensAreOurs) {
  LinearProblem problem({127, 33, 130, true}, {DType::kI4, 32});
  const std::vector<float> ours = RunOn(cuda::EmulatedCuda(), problem, 0, 127);
  EXPECT_TRUE(SameBits(RunOn(Emulated(), problem, 0, 127), ours));
  EXPECT_EQ(Library().searches, 0);
}

TEST(CudaLibrary, FromHowManyTokensIsSaid) {
  LinearProblem problem({40, 16, 64}, {DType::kI8, 0});
  const Backend& device = Emulated();
  device.use_library_from(40);
  EXPECT_TRUE(IsNear(RunOn(device, problem, 0, 40), problem));
  EXPECT_EQ(Library().products, 1);
  device.use_library_from(41);
  RunOn(device, problem, 0, 40);
  EXPECT_EQ(Library().products, 1);
  device.use_library_from(128);
}

TEST(CudaLibrary, PartsAreAsFewAsThereIsRoomFor) {
  LinearProblem problem({150, 129, 600, false, Residual::kSeparate}, {DType::kBF16, 0});
  RunOn(Emulated(), problem, 0, 150);
  EXPECT_EQ(Library().products, 3 * 3);  // 51, 51 and 48 tokens; 48, 48 and 33 rows
}

TEST(CudaLibrary, WhatItCannotDoIsOurs) {
  for (PackedFormat format : kFormats) {
    LinearProblem problem({150, 129, 600, true, Residual::kInPlace}, format);
    const std::vector<float> ours = RunOn(cuda::EmulatedCuda(), problem, 0, 150);
    const Backend& device = Emulated();
    Library().refuses = true;
    EXPECT_TRUE(SameBits(RunOn(device, problem, 0, 150), ours)) << FormatName(format);
    EXPECT_EQ(Library().products, 0);
    const Backend& without = cuda::EmulatedFastCuda("/nowhere/libcublasLt.so");
    EXPECT_TRUE(SameBits(RunOn(without, problem, 0, 150), ours)) << FormatName(format);
  }
}

TEST(CudaLibrary, AProductThatFailsIsNotTakenForARight) {
  LinearProblem problem({128, 16, 64}, {DType::kI8, 0});
  const Backend& device = Emulated();
  Library().fails = true;
  const cuda::emulation::FaultCollector faults;
  RunOn(device, problem, 0, 128);
  ASSERT_EQ(faults.faults().size(), 1u);
  EXPECT_NE(faults.faults()[0].find("refuses"), std::string::npos) << faults.faults()[0];
}

TEST(CudaLibrary, AShapeIsSearchedForOnceAndAllIsGivenBack) {
  const Backend& device = Emulated();
  const int objects = Library().objects;
  const uint64_t bytes = cuda::emulation::AllocatedBytes();
  {
    Mirror mirror(device);
    LinearProblem problem({128, 32, 64, true}, {DType::kF16, 0});
    Matrix out = problem.residual;
    Linear args = problem.Args(out);
    args.x = mirror.In(args.x);
    args.bias = mirror.In(args.bias, 32);
    args.weight = mirror.In(args.weight);
    args.out = mirror.InOut(args.out);
    for (int i = 0; i < 3; ++i) device.linear(args, mirror.stream());
    mirror.Finish();
    EXPECT_EQ(Library().products, 3);
    EXPECT_EQ(Library().searches, 1);
    EXPECT_TRUE(IsNear(out.Dense(), problem));
  }
  EXPECT_EQ(Library().objects, objects);
  EXPECT_EQ(cuda::emulation::AllocatedBytes(), bytes);
}

TEST(CudaLibrary, WhatOverflowsF16IsFiniteAndNotANumberIsNotLaundered) {
  for (PackedFormat format : kFormats) {
    LinearProblem problem({130, 33, 600, true}, format);
    for (int64_t t = 0; t < 130; ++t) {
      for (int64_t k = 0; k < 600; ++k) problem.x.view().f32(t)[k] = k % 2 == 0 ? 6e4f : -5.9e4f;
    }
    for (float y : RunOn(Emulated(), problem, 0, 130)) ASSERT_TRUE(std::isfinite(y));
    problem.x.view().f32(5)[550] = NAN;
    problem.x.view().f32(7)[3] = -INFINITY;
    const std::vector<float> found = RunOn(Emulated(), problem, 0, 130);
    ASSERT_FALSE(found.empty());
    for (int64_t r = 0; r < 33; ++r) {
      EXPECT_TRUE(std::isnan(found[5 * 33 + r])) << FormatName(format);
      EXPECT_FALSE(std::isfinite(found[7 * 33 + r])) << FormatName(format);
      EXPECT_TRUE(std::isfinite(found[6 * 33 + r])) << FormatName(format);
    }
  }
}

TEST(CudaLibrary, SaysItsVersion) {
  const std::unique_ptr<cuda::CublasLt> library = cuda::CublasLt::Open(LibraryPath().c_str());
  ASSERT_NE(library, nullptr);
  EXPECT_EQ(library->name(), "cuBLASLt 13.1.2");
  EXPECT_EQ(cuda::CublasLt::Open("/nowhere/libcublasLt.so"), nullptr);
}

}  // namespace
}  // namespace qianyi::testing
