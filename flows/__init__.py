"""What a run is. Import flows by their dotted name: `flows.sync.sync`."""
