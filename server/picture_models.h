// Which models work together on pictures.
#pragma once

#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "runtime/pictures/painter.h"
#include "server/served_model.h"

namespace qianyi {

// What paints with `model`: it scores and describes with itself or, where its roles lack that, with
// the first of `all` that can and has the same vocabulary of codes; likewise for magnifying.
// InvalidArgument when `model` is a model of text. The result borrows from the models.
absl::StatusOr<Painter> PainterOf(const ServedModel& model,
                                  std::span<const std::unique_ptr<ServedModel>> all);

}  // namespace qianyi
