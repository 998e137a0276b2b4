#pragma once

#include "runtime/models/registry.h"

namespace qianyi {

extern const ModelFamily kGlmFamily;   // of transformers
extern const ModelFamily kGlm4Family;  // the same with norms behind attention and MLP too

}  // namespace qianyi
