#include "server/image_metrics.h"

#include <utility>

namespace qianyi {
namespace {

const prometheus::Histogram::BucketBoundaries kSeconds = {
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800};

const char* NameOf(ImageWork work) {
  switch (work) {
    case ImageWork::kGenerate:
      return "generate";
    case ImageWork::kEdit:
      return "edit";
    case ImageWork::kCaption:
      break;
  }
  return "caption";
}

}  // namespace

ImageMetrics::ImageMetrics(prometheus::Registry& registry,
                           std::span<const std::unique_ptr<ServedModel>> models)
    : requests_(prometheus::BuildGauge()
                    .Name("qianyi_image_requests")
                    .Help("Requests about pictures now, by state")
                    .Register(registry)) {
  auto& pictures = prometheus::BuildCounter()
                       .Name("qianyi_images_total")
                       .Help("Pictures sent, and pictures described, by work")
                       .Register(registry);
  auto& codes = prometheus::BuildCounter()
                    .Name("qianyi_image_codes_total")
                    .Help("Codes drawn, all candidates counted; of captions, words")
                    .Register(registry);
  auto& first = prometheus::BuildHistogram()
                    .Name("qianyi_image_first_row_seconds")
                    .Help("From acceptance to the first whole row of a picture")
                    .Register(registry);
  auto& seconds = prometheus::BuildHistogram()
                      .Name("qianyi_image_seconds")
                      .Help("From acceptance to the end of a request about pictures")
                      .Register(registry);
  for (const auto& model : models) {
    if (model->picture == nullptr) continue;
    for (const ImageWork work : {ImageWork::kGenerate, ImageWork::kEdit, ImageWork::kCaption}) {
      const prometheus::Labels labels = {{"model", model->name}, {"work", NameOf(work)}};
      works_.emplace(std::pair(model.get(), work),
                     Work{pictures.Add(labels), codes.Add(labels), first.Add(labels, kSeconds),
                          seconds.Add(labels, kSeconds), FinishMetrics(registry, model->name)});
    }
    running_ = &requests_.Add({{"state", "running"}});
    waiting_ = &requests_.Add({{"state", "waiting"}});
  }
}

void ImageMetrics::SetRequests(int64_t running, int64_t waiting) {
  if (running_ == nullptr) return;
  running_->Set(static_cast<double>(running));
  waiting_->Set(static_cast<double>(waiting));
}

}  // namespace qianyi
