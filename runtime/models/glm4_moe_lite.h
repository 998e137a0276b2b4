#pragma once

#include "runtime/models/registry.h"

namespace qianyi {

extern const ModelFamily kGlm4MoeLiteFamily;

}  // namespace qianyi
