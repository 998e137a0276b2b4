#include "tests/kernels/cuda/run_linear.h"

#include "tests/kernels/cuda/mirror.h"

namespace qianyi::testing {

std::vector<float> RunOn(const Backend& device, LinearProblem& problem, int64_t begin,
                         int64_t count) {
  Mirror mirror(device);
  Matrix out = problem.residual;
  Linear args = problem.Args(out);
  const bool residual = args.residual.data != nullptr;
  const bool in_place = args.residual.data == args.out.data;
  args.x = mirror.In(args.x.Rows(begin, count));
  args.out = mirror.InOut(args.out.Rows(begin, count));
  if (residual) args.residual = in_place ? args.out : mirror.In(args.residual.Rows(begin, count));
  if (args.bias != nullptr) args.bias = mirror.In(args.bias, problem.shape.rows);
  args.weight = mirror.In(args.weight);
  QuantizedStorage quantized(count, problem.shape.cols);
  if (problem.format.integer()) {
    args.quantized = mirror.InOut(quantized.view());
    device.quantize({args.x, args.quantized}, mirror.stream());
    args.x = {};
  }
  device.linear(args, mirror.stream());
  mirror.Finish();
  if (!out.Intact()) return {};
  const std::vector<float> dense = out.Dense();
  return {dense.begin() + begin * problem.shape.rows,
          dense.begin() + (begin + count) * problem.shape.rows};
}

}  // namespace qianyi::testing
