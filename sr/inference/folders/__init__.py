"""Convert folders of images: plan, manifest of finished outputs, work queue of a launch, pipeline."""
