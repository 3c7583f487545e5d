package main
import "context"
func storedExperiment(ctx context.Context, o options) error { return nil }
func memoryExperiment(ctx context.Context, o options) error { return nil }
func overloadExperiment(ctx context.Context, o options) error { return nil }
func keysExperiment(ctx context.Context, o options) error { return nil }
func mapsExperiment(ctx context.Context, o options) error { return nil }
