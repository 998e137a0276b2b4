// CogView, 4 billion parameters: pictures from words with one Transformer.
#pragma once

#include "runtime/models/registry.h"

namespace qianyi {

extern const ModelFamily kCogViewFamily;

}  // namespace qianyi
