import EdgeQKV
import SwiftUI
import UniformTypeIdentifiers

/// The one screen: what the bundle is, a prompt, the buttons, and the text as it grows.
struct ContentView: View {
    @State private var sample = Sample()
    @State private var prompt = "The coroutine then"
    @State private var temperature = 0.0
    @State private var choosing = false

    var body: some View {
        ScrollView {
            VStack(alignment: .leading, spacing: 12) {
                Text(sample.facts)
                TextField("Prompt", text: $prompt, axis: .vertical)
                Slider(value: $temperature, in: 0...1) { Text("Temperature") }
                buttons
                Text(sample.text)
            }
            .padding()
        }
        .fileImporter(isPresented: $choosing, allowedContentTypes: [.folder]) { result in
            guard case .success(let folder) = result else { return }
            Task { await sample.open(folder) }
        }
    }

    @ViewBuilder private var buttons: some View {
        HStack(spacing: 12) {
            if sample.running {
                Button("Stop") { sample.runner?.stop() }
            } else {
                Button("Open") { choosing = true }
                Button("Generate") { Task { await sample.generate(prompt, temperature: temperature) } }
                Button("Measure") { Task { await sample.measure() } }
                if let report = sample.report { ShareLink(item: report) }
            }
        }
        .buttonStyle(.bordered)
    }
}
