// Which sanitizer the compiler was asked for: GCC says it by one name, clang by another.
#pragma once

#ifdef __SANITIZE_ADDRESS__
#define QIANYI_ADDRESS_SANITIZER
#endif
#ifdef __SANITIZE_THREAD__
#define QIANYI_THREAD_SANITIZER
#endif
#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define QIANYI_ADDRESS_SANITIZER
#endif
#if __has_feature(thread_sanitizer)
#define QIANYI_THREAD_SANITIZER
#endif
#endif
